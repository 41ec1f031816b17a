//! The data layer on both databases: the gain from its batches, indexes and caches, the cost of its
//! commits, and its growth. There are seven tables, each explained at the top of its file.
//!
//! The sides of a table take turns within each round, because the machine is noisy. The figures are
//! medians of the rounds. SQLite is opened as the store opens it (WAL, `synchronous=FULL`), on the
//! disk of the target folder. PostgreSQL is a private server on loopback with its default
//! durability, or the server of `STEPWELL_TEST_POSTGRES`, where the user must be a superuser.
//! `--only TEXT` picks tables here, and `--database` one of the databases.

#![expect(
    clippy::print_stdout,
    reason = "the tables are what this program is for"
)]

#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "there are no guests here")]
mod support;

mod batch;
mod by_hand;
mod cached_reads;
#[path = "../support/clients.rs"]
mod clients;
#[path = "../support/databases.rs"]
mod databases;
mod floor;
mod group_commit;
mod hit_cost;
mod hit_rates;
mod indexes;
mod measure;
#[path = "../../../tests/store/postgres.rs"]
#[expect(dead_code, reason = "the tests need more of it")]
mod postgres;
mod random;
mod scaling;
mod seed;
mod steps;

use self::databases::{Kind, Place};
use self::support::{AnyError, Options};

fn main() -> Result<(), AnyError> {
    let mut own = [("--database", None)];
    let Some(options) = Options::asked(&mut own)? else {
        return Ok(());
    };
    let [(_, database)] = own;
    let kinds = Kind::asked(database.as_deref())?;
    let threads = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    threads.block_on(async move { tokio::spawn(run(options, kinds)).await })?
}

async fn run(options: Options, kinds: Vec<Kind>) -> Result<(), AnyError> {
    // The other two tables are about memory and need no server.
    let on_places = [
        "batch",
        "indexes",
        "scaling",
        "cached reads",
        "group commit",
    ];
    let kinds = if on_places.into_iter().any(|name| options.wants(name)) {
        kinds
    } else {
        Vec::new()
    };
    let places = kinds
        .into_iter()
        .map(Place::open)
        .collect::<Result<Vec<_>, _>>()?;
    if options.wants("batch") {
        Box::pin(batch::run(&options, &places)).await?;
    }
    if options.wants("indexes") || options.wants("scaling") {
        Box::pin(on_large_tables(&options, &places)).await?;
    }
    if options.wants("cached reads") {
        cached_reads::run(&options, &places).await?;
    }
    if options.wants("hit rates") {
        Box::pin(hit_rates::run(&options)).await?;
    }
    if options.wants("hit cost") {
        hit_cost::run(&options).await?;
    }
    if options.wants("group commit") {
        Box::pin(group_commit::run(&options, &places)).await?;
    }
    Ok(())
}

/// Fills a database with a million instances and approvals for two tables, because creating the
/// rows takes longer than measuring.
async fn on_large_tables(options: &Options, places: &[Place]) -> Result<(), AnyError> {
    let rows = if options.quick { 20_000 } else { 1_000_000 };
    let (mut indexes, mut scaling) = (indexes::table(), scaling::table());
    for place in places {
        let (database, bare) = seed::fill(place, rows, options.wants("indexes")).await?;
        if let Some(bare) = bare {
            indexes::measure(options, rows, &database, &bare, &mut indexes).await?;
            place.remove(bare).await?;
        }
        if options.wants("scaling") {
            Box::pin(scaling::measure(
                options,
                place,
                (&database, rows),
                &mut scaling,
            ))
            .await?;
        }
        place.remove(database).await?;
    }
    for (name, table) in [("indexes", indexes), ("scaling", scaling)] {
        if options.wants(name) {
            print(name, &table);
        }
    }
    Ok(())
}

fn print(name: &str, table: &comfy_table::Table) {
    println!("\n{name}\n\n{table}");
}
