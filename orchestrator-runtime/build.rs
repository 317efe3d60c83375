//! Has the crate built again when a migration is added: `sqlx::migrate!` only notices changes to those it knows.

fn main() {
    println!("cargo:rerun-if-changed=../migrations");
}
