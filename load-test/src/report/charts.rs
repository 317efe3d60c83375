//! Pictures of a run, as SVG text.

use std::fmt::Display;

use anyhow::{Result, anyhow};
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;

use crate::traffic::{Latencies, Second, Seconds, ms};

const SIZE: (u32, u32) = (860, 300);
const FONT: &str = "sans-serif";
const BLUE: RGBColor = RGBColor(0x1f, 0x6f, 0xb4);
const ORANGE: RGBColor = RGBColor(0xd9, 0x6b, 0x0b);
const RED: RGBColor = RGBColor(0xb8, 0x2c, 0x3a);
const GREY: RGBColor = RGBColor(0x60, 0x66, 0x6e);
const GRID: RGBColor = RGBColor(0xe4, 0xe7, 0xeb);

/// A line of a picture.
struct Series {
    name: &'static str,
    colour: RGBColor,
    points: Points,
}

type Points = Vec<(f64, f64)>;

/// Median, p99 and maximum of each second.
pub(super) fn latency(seconds: &Seconds) -> Result<String> {
    let of = |name, colour, quantile| Series {
        name,
        colour,
        points: points(seconds, |one| one.latency_ms(quantile)),
    };
    let series = [
        of("p50", BLUE, 0.5),
        of("p99", ORANGE, 0.99),
        of("max", RED, 1.0),
    ];
    let (low, high) = bounds(&series);
    // Whole decades, so that there is a label at either end.
    let decade = |ms: f64| ms.max(0.1).log10();
    let y = (10_f64.powf(decade(low).floor())..10_f64.powf(decade(high).ceil())).log_scale();
    draw("milliseconds", &series, seconds_range(seconds), y, &|at| {
        format!("{at:.0} s")
    })
}

/// Sent and seen, by the second.
pub(super) fn throughput(seconds: &Seconds) -> Result<String> {
    let rate = |count: u64, one: &Second| Some(count as f64 / one.took.as_secs_f64());
    linear(
        seconds,
        "records per second",
        vec![
            ("sent", GREY, points(seconds, |one| rate(one.sent, one))),
            ("out", BLUE, points(seconds, |one| rate(one.accounted, one))),
        ],
    )
}

/// Sent and not seen yet.
pub(super) fn lag(seconds: &Seconds) -> Result<String> {
    let lag = points(seconds, |one| Some(one.lag() as f64));
    linear(seconds, "records", vec![("lag", ORANGE, lag)])
}

/// Memory of the program.
pub(super) fn memory(seconds: &Seconds) -> Result<String> {
    let mib = |one: &Second| Some(one.usage?.rss_bytes as f64 / 1_048_576.0);
    linear(
        seconds,
        "MiB resident",
        vec![("memory", BLUE, points(seconds, mib))],
    )
}

/// Within how many milliseconds which share was done, the tail stretched: one step right, ten times rarer.
pub(super) fn percentiles(seconds: &Seconds) -> Result<String> {
    let all: &Latencies = &seconds.latencies;
    let nines = (all.len().max(10) as f64).log10();
    let quantile = |nines: f64| 1.0 - 10_f64.powf(-nines);
    let steps = 400;
    let points = (0..=steps)
        .map(|step| nines * f64::from(step) / f64::from(steps))
        .map(|nines| (nines, ms(all, quantile(nines))));
    let series = [Series {
        name: "latency",
        colour: BLUE,
        points: points.collect(),
    }];
    let (_, high) = bounds(&series);
    let label = |at: &f64| {
        let percent = quantile(*at) * 100.0;
        let decimals = (at.floor() as usize).saturating_sub(2);
        format!("{percent:.decimals$} %")
    };
    draw(
        "milliseconds, by percentile",
        &series,
        0.0..nines,
        0.0..high.max(1.0) * 1.05,
        &label,
    )
}

/// A bar for each label.
pub(crate) fn bars(unit: &str, values: &[(String, f64)]) -> Result<String> {
    let height = 40 + 26 * u32::try_from(values.len())?;
    let high = values.iter().map(|(_, value)| *value).fold(1.0, f64::max);
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (SIZE.0, height)).into_drawing_area();
        area.fill(&WHITE).map_err(cannot)?;
        let mut chart = ChartBuilder::on(&area)
            .margin(8)
            .margin_right(36)
            .x_label_area_size(28)
            .y_label_area_size(260)
            .build_cartesian_2d(0.0..high * 1.05, (0..values.len()).into_segmented())
            .map_err(cannot)?;
        let label = |at: &SegmentValue<usize>| match at {
            // From the top downwards.
            SegmentValue::CenterOf(at) | SegmentValue::Exact(at) => {
                let found = values
                    .len()
                    .checked_sub(at + 1)
                    .and_then(|at| values.get(at));
                found.map_or(String::new(), |(label, _)| label.clone())
            }
            SegmentValue::Last => String::new(),
        };
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(GREY)
            .disable_y_mesh()
            .x_label_formatter(&short)
            .y_labels(values.len())
            .y_label_formatter(&label)
            .x_desc(unit)
            .label_style((FONT, 13).into_font().color(&GREY))
            .draw()
            .map_err(cannot)?;
        let bars = values.iter().rev().enumerate().map(|(at, (_, value))| {
            let from = (0.0, SegmentValue::Exact(at));
            let to = (*value, SegmentValue::Exact(at + 1));
            let mut bar = Rectangle::new([from, to], BLUE.filled());
            bar.set_margin(4, 4, 0, 0);
            bar
        });
        chart.draw_series(bars).map_err(cannot)?;
        area.present().map_err(cannot)?;
    }
    Ok(svg)
}

fn linear(
    seconds: &Seconds,
    unit: &str,
    series: Vec<(&'static str, RGBColor, Points)>,
) -> Result<String> {
    let series: Vec<Series> = series
        .into_iter()
        .map(|(name, colour, points)| Series {
            name,
            colour,
            points,
        })
        .collect();
    let (_, high) = bounds(&series);
    let y = 0.0..high.max(1.0) * 1.05;
    draw(unit, &series, seconds_range(seconds), y, &|at| {
        format!("{at:.0} s")
    })
}

fn points(seconds: &Seconds, of: impl Fn(&Second) -> Option<f64>) -> Points {
    // The last one is short, and would only show that.
    let whole = seconds
        .all
        .iter()
        .filter(|one| one.took.as_secs_f64() > 0.5);
    let point = |one: &Second| Some((one.at.as_secs_f64(), of(one)?));
    whole.filter_map(point).collect()
}

fn seconds_range(seconds: &Seconds) -> std::ops::Range<f64> {
    0.0..seconds.all.last().map_or(1.0, |last| last.at.as_secs_f64())
}

fn bounds(series: &[Series]) -> (f64, f64) {
    let values = || {
        series
            .iter()
            .flat_map(|one| &one.points)
            .map(|point| point.1)
    };
    let low = values().fold(f64::INFINITY, f64::min);
    (
        if low.is_finite() { low } else { 0.1 },
        values().fold(0.0, f64::max),
    )
}

fn draw<Y>(
    unit: &str,
    series: &[Series],
    x: std::ops::Range<f64>,
    y: Y,
    x_label: &dyn Fn(&f64) -> String,
) -> Result<String>
where
    Y: AsRangedCoord<Value = f64>,
    Y::CoordDescType: ValueFormatter<f64>,
{
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&WHITE).map_err(cannot)?;
        let mut chart = ChartBuilder::on(&area)
            .margin(8)
            .margin_right(36)
            .x_label_area_size(28)
            .y_label_area_size(72)
            .build_cartesian_2d(x, y)
            .map_err(cannot)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(GREY)
            .x_label_formatter(x_label)
            .y_label_formatter(&short)
            .y_desc(unit)
            .label_style((FONT, 13).into_font().color(&GREY))
            .draw()
            .map_err(cannot)?;
        for Series {
            name,
            colour,
            points,
        } in series
        {
            let line = LineSeries::new(points.iter().copied(), colour.stroke_width(2));
            let drawn = chart.draw_series(line).map_err(cannot)?;
            drawn
                .label(*name)
                .legend(|(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
        }
        if series.len() > 1 {
            chart
                .configure_series_labels()
                .position(SeriesLabelPosition::UpperRight)
                .background_style(WHITE.mix(0.85))
                .border_style(GRID)
                .label_font((FONT, 13).into_font().color(&GREY))
                .draw()
                .map_err(cannot)?;
        }
        area.present().map_err(cannot)?;
    }
    Ok(svg)
}

/// 12, 3.5, 120k, 2M.
fn short(value: &f64) -> String {
    match value.abs() {
        1e6.. => format!("{}M", value / 1e6),
        1e4.. => format!("{}k", value / 1e3),
        _ => format!("{}", (value * 1000.0).round() / 1000.0),
    }
}

fn cannot(error: impl Display) -> anyhow::Error {
    anyhow!("a picture cannot be drawn: {error}")
}
