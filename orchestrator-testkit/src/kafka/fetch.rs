//! Kafka's jars, fetched once with Maven into the target folder.
//!
//! Called by `local.rs`. Several test binaries may come here at once: one fetches under a file lock,
//! the others wait and find the finished folder. It must never leave a half-filled folder under the
//! final name.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::error::KafkaError;
use super::options::Tools;
use crate::command::{output_within, tail};
use crate::workspace::target_dir;

/// The release of Apache Kafka that everything here is tested on.
pub const KAFKA_VERSION: &str = "4.3.1";

/// Seconds on a good line, minutes on a poor one.
const FETCH_DEADLINE: Duration = Duration::from_secs(600);

/// `slf4j-simple` makes the broker's log appear; Kafka's own artifact brings no backend.
const POM: &str = r#"<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>local</groupId> <artifactId>kafka-libs</artifactId> <version>1</version> <packaging>pom</packaging>
  <dependencies>
    <dependency> <groupId>org.apache.kafka</groupId> <artifactId>kafka_2.13</artifactId> <version>@KAFKA@</version> </dependency>
    <dependency> <groupId>org.slf4j</groupId> <artifactId>slf4j-simple</artifactId> <version>1.7.36</version> </dependency>
  </dependencies>
</project>
"#;

/// The folder of jars: the one named, or the cached one, fetched if need be.
pub(super) fn kafka_libs(tools: &Tools) -> Result<PathBuf, KafkaError> {
    if let Some(named) = &tools.kafka_libs {
        return Ok(named.clone());
    }
    let cache = target_dir().join(format!("kafka-{KAFKA_VERSION}"));
    fetch_into(&cache, &tools.maven)
}

/// Whether [`kafka_libs`] can succeed without Maven.
pub(super) fn at_hand(tools: &Tools) -> bool {
    tools.kafka_libs.is_some()
        || target_dir()
            .join(format!("kafka-{KAFKA_VERSION}/libs"))
            .exists()
}

fn fetch_into(cache: &Path, maven: &Path) -> Result<PathBuf, KafkaError> {
    let libs = cache.join("libs");
    if libs.exists() {
        return Ok(libs);
    }
    fs::create_dir_all(cache).map_err(KafkaError::io(format!("create {}", cache.display())))?;
    let lock_path = cache.join("lock");
    let lock = File::create(&lock_path)
        .map_err(KafkaError::io(format!("create {}", lock_path.display())))?;
    // The kernel releases it when `lock` closes, so a killed fetch blocks nobody.
    lock.lock()
        .map_err(KafkaError::io(format!("lock {}", lock_path.display())))?;
    if libs.exists() {
        return Ok(libs);
    }
    eprintln!(
        "fetching Apache Kafka {KAFKA_VERSION} into {} ..",
        libs.display()
    );
    let work = tempfile::Builder::new()
        .prefix("fetch-")
        .tempdir_in(cache)
        .map_err(KafkaError::io(format!(
            "create a folder in {}",
            cache.display()
        )))?;
    let pom = work.path().join("pom.xml");
    fs::write(&pom, POM.replace("@KAFKA@", KAFKA_VERSION))
        .map_err(KafkaError::io(format!("write {}", pom.display())))?;
    let fetched = work.path().join("libs");
    let failed = |reason: String| KafkaError::Fetch {
        artifact: format!("org.apache.kafka:kafka_2.13:{KAFKA_VERSION}"),
        reason,
    };
    let output = output_within(
        Command::new(maven)
            .current_dir(work.path())
            .args(["--quiet", "--batch-mode", "dependency:copy-dependencies"])
            .arg("-DincludeScope=runtime")
            .arg(format!("-DoutputDirectory={}", fetched.display())),
        FETCH_DEADLINE,
    )
    .map_err(|e| failed(format!("{}: {e}", maven.display())))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stdout);
        return Err(failed(format!("{}\n{}", output.status, tail(&text, 15))));
    }
    fs::rename(&fetched, &libs).map_err(KafkaError::io(format!("rename to {}", libs.display())))?;
    Ok(libs)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// A stand-in for Maven: slow, counts its runs, and writes two jars one after the other.
    fn fake_maven(folder: &Path) -> PathBuf {
        let program = folder.join("mvn");
        let script = format!(
            "#!/bin/sh\necho run >> {}/runs\nfor a in \"$@\"; do case $a in -DoutputDirectory=*) d=${{a#*=}};; esac; done\n\
             mkdir -p $d; touch $d/a.jar; sleep 0.2; touch $d/b.jar\n",
            folder.display()
        );
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        program
    }

    #[test]
    fn many_at_once_fetch_once_and_see_all_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let maven = fake_maven(folder.path());
        let cache = folder.path().join("cache");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let libs = fetch_into(&cache, &maven).unwrap();
                    assert!(libs.join("a.jar").exists() && libs.join("b.jar").exists());
                });
            }
        });
        assert_eq!(
            fs::read_to_string(folder.path().join("runs")).unwrap(),
            "run\n"
        );
    }

    #[test]
    fn a_failed_fetch_names_the_artifact_and_the_way_round() {
        let folder = tempfile::tempdir().unwrap();
        let error =
            fetch_into(&folder.path().join("cache"), Path::new("/nowhere/mvn")).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("kafka_2.13:4.3.1") && text.contains("ORCH_KAFKA_LIBS"),
            "{text}"
        );
        assert!(!folder.path().join("cache/libs").exists());
    }
}
