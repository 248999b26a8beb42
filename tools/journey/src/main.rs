//! Converts the sales of The Complete Journey from Parquet to the CSV that the sample shop reads.
//!
//! One row is one line of a receipt. Nothing is dropped or repaired here: lines without a quantity and
//! fuel stay in, because setting them aside by name is the business of whoever reads the file.

mod csv;
mod sales;

use std::path::PathBuf;

use anyhow::Context;
use chrono::NaiveDate;
use clap::Parser;

/// Converts the sales of The Complete Journey from Parquet to CSV.
#[derive(Debug, Parser)]
struct Args {
    /// Folder that holds transactions.parquet
    dir: PathBuf,
    /// File to write; compressed with gzip when its name ends in .gz
    #[arg(long)]
    out: PathBuf,
    /// First day to keep, in UTC [default: the first in the data]
    #[arg(long, value_name = "YYYY-MM-DD")]
    from: Option<NaiveDate>,
    /// Last day to keep, in UTC [default: the last in the data]
    #[arg(long, value_name = "YYYY-MM-DD")]
    to: Option<NaiveDate>,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let source = args.dir.join("transactions.parquet");
    let mut lines = sales::read(&source).with_context(|| format!("cannot read {}", source.display()))?;
    sales::check_baskets(&lines).with_context(|| format!("{} is inconsistent", source.display()))?;
    sales::keep_days(&mut lines, args.from, args.to);
    anyhow::ensure!(!lines.is_empty(), "{} has no sales in these days", source.display());
    sales::sort(&mut lines);
    csv::write(&args.out, &lines).with_context(|| format!("cannot write {}", args.out.display()))?;
    println!("{}", sales::Summary::of(&lines));
    Ok(())
}
