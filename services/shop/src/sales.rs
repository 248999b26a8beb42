//! Recorded sales: CSV rows, one line of a receipt each, read basket by basket.

use std::{
    fs::File,
    io::{self, BufReader, Read},
    path::{Path, PathBuf},
};

use aqueduct::Timestamp;
use csv::StringRecord;
use flate2::read::GzDecoder;
use shop_events::{
    BasketId, HouseholdId, Sku, StoreId,
    till::{BasketCheckedOut, Line},
};

/// The four weeks that come with the shop.
const SAMPLE: &[u8] = include_bytes!("../data/sample.csv.gz");

const COLUMNS: [&str; 7] =
    ["basket_id", "store_id", "household_id", "timestamp", "product_id", "quantity", "sales_value_cents"];

/// Above this, a quantity is fuel: the source counts it in another unit than pieces.
const FUEL: u32 = 1_000;

/// Rows that are not played, by the name of the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub(crate) struct SetAside {
    /// Nothing was bought.
    pub(crate) zero_quantity: u64,
    /// Not counted in pieces.
    pub(crate) fuel: u64,
}

/// Sales that cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SalesError {
    #[error("cannot read the sales in {}: {source}", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("{place} has the columns {found:?}, not {COLUMNS:?}")]
    Columns { place: String, found: Vec<String> },
    #[error("{place}, row {row}: {reason}")]
    Row { place: String, row: u64, reason: String },
}

/// The sales of one file, in their order.
pub(crate) struct Sales {
    place: String,
    rows: csv::Reader<Box<dyn Read + Send>>,
    row: StringRecord,
    /// The first row of the next basket.
    ahead: Option<(BasketCheckedOut, Option<Line>)>,
    pub(crate) set_aside: SetAside,
}

impl Sales {
    /// Opens the file, or the sample.
    pub(crate) fn open(path: Option<&Path>) -> Result<Self, SalesError> {
        let (place, bytes): (String, Box<dyn Read + Send>) = match path {
            None => ("the sample".to_owned(), Box::new(GzDecoder::new(SAMPLE))),
            Some(path) => {
                let open = |source| SalesError::Open { path: path.to_owned(), source };
                let file = BufReader::with_capacity(256 * 1024, File::open(path).map_err(open)?);
                let zipped = path.extension().is_some_and(|extension| extension == "gz");
                (
                    path.display().to_string(),
                    if zipped { Box::new(GzDecoder::new(file)) } else { Box::new(file) },
                )
            }
        };
        let mut rows = csv::Reader::from_reader(bytes);
        let found: Vec<_> = match rows.headers() {
            Ok(headers) => headers.iter().map(str::to_owned).collect(),
            Err(error) => return Err(SalesError::Row { place, row: 0, reason: error.to_string() }),
        };
        if found != COLUMNS {
            return Err(SalesError::Columns { place, found });
        }
        Ok(Self { place, rows, row: StringRecord::new(), ahead: None, set_aside: SetAside::default() })
    }

    /// The next basket that has a line to play, or none at the end.
    pub(crate) fn next_basket(&mut self) -> Result<Option<BasketCheckedOut>, SalesError> {
        loop {
            let Some((mut basket, line)) =
                self.ahead.take().map_or_else(|| self.read_row(), |ahead| Ok(Some(ahead)))?
            else {
                return Ok(None);
            };
            basket.lines.extend(line);
            while let Some((next, line)) = self.read_row()? {
                if next.basket == basket.basket {
                    basket.lines.extend(line);
                } else {
                    self.ahead = Some((next, line));
                    break;
                }
            }
            if !basket.lines.is_empty() {
                return Ok(Some(basket));
            }
        }
    }

    /// A row as a basket without lines, and its line unless that is set aside.
    fn read_row(&mut self) -> Result<Option<(BasketCheckedOut, Option<Line>)>, SalesError> {
        let read = self.rows.read_record(&mut self.row);
        let number = self.row.position().map_or(0, csv::Position::line);
        let fail = |reason: String| SalesError::Row { place: self.place.clone(), row: number, reason };
        if !read.map_err(|error| fail(error.to_string()))? {
            return Ok(None);
        }
        let field = |index: usize| self.row.get(index).unwrap_or_default();
        let bad = |index: usize| fail(format!("{} is {:?}", COLUMNS[index], field(index)));
        let number = |index: usize| field(index).parse::<u32>().map_err(|_| bad(index));
        let quantity = number(5)?;
        let line = match quantity {
            0 => {
                self.set_aside.zero_quantity += 1;
                None
            }
            fuel if fuel > FUEL => {
                self.set_aside.fuel += 1;
                None
            }
            quantity => Some(Line {
                sku: Sku(number(4)?),
                quantity,
                paid_cents: Some(field(6).parse().map_err(|_| bad(6))?),
            }),
        };
        let basket = BasketCheckedOut {
            basket: BasketId(field(0).parse().map_err(|_| bad(0))?),
            store: StoreId(number(1)?),
            household: HouseholdId(number(2)?),
            at: field(3).parse::<At>().map_err(|_| bad(3))?.0,
            lines: Vec::new(),
        };
        Ok(Some((basket, line)))
    }
}

/// `2017-01-01T11:53:26Z`.
struct At(Timestamp);

impl std::str::FromStr for At {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Timestamp::parse_rfc3339(text).map(Self).ok_or(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sales(rows: &str) -> Sales {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("{}\n{rows}", COLUMNS.join(","))).unwrap();
        Sales::open(Some(file.path())).unwrap()
    }

    #[test]
    fn rows_of_a_basket_are_one_and_what_is_set_aside_is_counted() {
        let mut sales = sales(
            "7,330,9,2017-01-01T11:53:26Z,1,1,50\n7,330,9,2017-01-01T11:53:26Z,2,0,0\n\
             8,331,9,2017-01-01T11:53:27Z,3,1001,0\n9,331,9,2017-01-01T11:53:28Z,4,1000,5\n",
        );
        let first = sales.next_basket().unwrap().unwrap();
        assert_eq!(
            (first.basket, first.lines.len(), first.at.as_millis()),
            (BasketId(7), 1, 1_483_271_606_000)
        );
        assert_eq!(sales.next_basket().unwrap().unwrap().basket, BasketId(9));
        assert!(sales.next_basket().unwrap().is_none());
        assert_eq!(sales.set_aside, SetAside { zero_quantity: 1, fuel: 1 });
    }

    /// P12.
    #[test]
    fn a_bad_row_is_named() {
        let error = sales("7,330,9,2017-01-01T11:53:26Z,1,-2,50\n").next_basket().unwrap_err().to_string();
        assert!(error.ends_with(", row 2: quantity is \"-2\""), "{error}");
        let error = Sales::open(Some(Path::new("nowhere.csv"))).err().unwrap().to_string();
        assert_eq!(error, "cannot read the sales in nowhere.csv: No such file or directory (os error 2)");
    }

    #[test]
    fn the_sample_is_what_its_page_says() {
        let mut sales = Sales::open(None).unwrap();
        let (mut baskets, mut lines) = (0, 0);
        while let Some(basket) = sales.next_basket().unwrap() {
            baskets += 1;
            lines += basket.lines.len();
        }
        assert_eq!(
            (baskets, lines, sales.set_aside),
            (10_508, 109_533, SetAside { zero_quantity: 516, fuel: 933 })
        );
    }
}
