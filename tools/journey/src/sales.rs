//! The lines of the receipts: reading them, and what must hold between them.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    fs::File,
    io,
    path::Path,
};

use chrono::{DateTime, NaiveDate, Utc};
use parquet::{
    data_type::{DataType, DoubleType, Int64Type, Int96Type},
    errors::ParquetError,
    file::reader::{FileReader, RowGroupReader, SerializedFileReader},
};

/// Why the sales cannot be converted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SalesError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Parquet(#[from] ParquetError),
    #[error("there is no column {0}")]
    NoColumn(&'static str),
    #[error("column {0} has another type than expected")]
    ColumnType(&'static str),
    #[error(
        "column {column} has {found} values where the file promises {promised} rows; is one of them null?"
    )]
    ColumnLength { column: &'static str, found: usize, promised: i64 },
    #[error("basket {basket}: sales value {value} is not a whole number of cents")]
    NotCents { basket: i64, value: f64 },
    #[error("basket {basket}: time stamp {seconds} s is out of range or not a whole second")]
    Timestamp { basket: i64, seconds: i64 },
    #[error("basket {basket} has more than one {what}: {first} and {second}")]
    MixedBasket { basket: i64, what: &'static str, first: String, second: String },
}

/// One line of a receipt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) basket: i64,
    pub(crate) store: i64,
    pub(crate) household: i64,
    pub(crate) timestamp: DateTime<Utc>,
    pub(crate) product: i64,
    pub(crate) quantity: i64,
    pub(crate) sales_value_cents: i64,
}

/// Reads every line of a `transactions.parquet`, in the order of the file.
pub(crate) fn read(path: &Path) -> Result<Vec<Line>, SalesError> {
    let reader = SerializedFileReader::new(File::open(path)?)?;
    let mut lines = Vec::new();
    for number in 0..reader.num_row_groups() {
        let group = reader.get_row_group(number)?;
        let group = group.as_ref();
        let store = column::<Int64Type>(group, "store_id")?;
        let household = column::<Int64Type>(group, "household_id")?;
        let product = column::<Int64Type>(group, "product_id")?;
        let quantity = column::<Int64Type>(group, "quantity")?;
        let sales_value = column::<DoubleType>(group, "sales_value")?;
        let timestamp = column::<Int96Type>(group, "transaction_timestamp")?;
        for (row, basket) in column::<Int64Type>(group, "basket_id")?.into_iter().enumerate() {
            let (seconds, nanos) = (timestamp[row].to_seconds(), timestamp[row].to_nanos());
            let timestamp = DateTime::from_timestamp(seconds, 0)
                .filter(|_| seconds.checked_mul(1_000_000_000) == Some(nanos))
                .ok_or(SalesError::Timestamp { basket, seconds })?;
            lines.push(Line {
                basket,
                store: store[row],
                household: household[row],
                timestamp,
                product: product[row],
                quantity: quantity[row],
                sales_value_cents: cents(sales_value[row])
                    .ok_or(SalesError::NotCents { basket, value: sales_value[row] })?,
            });
        }
    }
    Ok(lines)
}

/// Every value of one column of a row group; a null is an error, so that rows cannot shift.
fn column<T: DataType>(group: &dyn RowGroupReader, name: &'static str) -> Result<Vec<T::T>, SalesError> {
    let schema = group.metadata().schema_descr();
    let index = schema.columns().iter().position(|c| c.name() == name).ok_or(SalesError::NoColumn(name))?;
    let mut reader =
        T::get_column_reader(group.get_column_reader(index)?).ok_or(SalesError::ColumnType(name))?;
    let promised = group.metadata().num_rows();
    let (mut values, mut levels) = (Vec::new(), Vec::new());
    loop {
        let (records, _, _) = reader.read_records(usize::MAX, Some(&mut levels), None, &mut values)?;
        if records == 0 {
            break;
        }
    }
    if i64::try_from(values.len()) != Ok(promised) {
        return Err(SalesError::ColumnLength { column: name, found: values.len(), promised });
    }
    Ok(values)
}

/// The nearest whole cent. The source summed in binary, so a value may miss it by rounding noise; by more
/// than that, it is refused.
fn cents(value: f64) -> Option<i64> {
    const NOISE: f64 = 1e-6;
    let text = format!("{value:.2}");
    if (text.parse::<f64>().ok()? - value).abs() > NOISE {
        return None;
    }
    text.replace('.', "").parse().ok()
}

/// Checks that a basket has one store, one household and one time stamp.
pub(crate) fn check_baskets(lines: &[Line]) -> Result<(), SalesError> {
    let mut first_of = HashMap::new();
    for line in lines {
        let basket = line.basket;
        let first: &Line = first_of.entry(basket).or_insert(line);
        let mixed = |what, first: &dyn fmt::Display, second: &dyn fmt::Display| {
            Err(SalesError::MixedBasket {
                basket,
                what,
                first: first.to_string(),
                second: second.to_string(),
            })
        };
        if first.store != line.store {
            return mixed("store", &first.store, &line.store);
        }
        if first.household != line.household {
            return mixed("household", &first.household, &line.household);
        }
        if first.timestamp != line.timestamp {
            return mixed("time stamp", &first.timestamp, &line.timestamp);
        }
    }
    Ok(())
}

/// Keeps the lines of the days `from` to `to`, both included. A basket has one time stamp, so none is cut.
pub(crate) fn keep_days(lines: &mut Vec<Line>, from: Option<NaiveDate>, to: Option<NaiveDate>) {
    lines.retain(|line| {
        let day = line.timestamp.date_naive();
        from.is_none_or(|from| from <= day) && to.is_none_or(|to| day <= to)
    });
}

/// Sorts by time, then basket, then product. The sort is stable, so the result is the same on every run.
pub(crate) fn sort(lines: &mut [Line]) {
    lines.sort_by_key(|line| (line.timestamp, line.basket, line.product));
}

/// What was written, counted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) lines: usize,
    pub(crate) baskets: usize,
    pub(crate) households: usize,
    pub(crate) stores: usize,
    pub(crate) zero_quantity: usize,
    pub(crate) over_1000: usize,
}

impl Summary {
    pub(crate) fn of(lines: &[Line]) -> Self {
        let distinct = |id: fn(&Line) -> i64| lines.iter().map(id).collect::<HashSet<_>>().len();
        Self {
            lines: lines.len(),
            baskets: distinct(|line| line.basket),
            households: distinct(|line| line.household),
            stores: distinct(|line| line.store),
            zero_quantity: lines.iter().filter(|line| line.quantity == 0).count(),
            over_1000: lines.iter().filter(|line| line.quantity > 1000).count(),
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} lines, {} baskets, {} households, {} stores, {} lines with quantity 0, {} with quantity > 1000",
            self.lines, self.baskets, self.households, self.stores, self.zero_quantity, self.over_1000
        )
    }
}

#[cfg(test)]
mod tests {
    use std::{path::PathBuf, sync::Arc};

    use parquet::{
        data_type::Int96,
        file::{properties::WriterProperties, writer::SerializedFileWriter},
        schema::parser::parse_message_type,
    };

    use super::*;

    const SCHEMA: &str = "message schema { OPTIONAL INT64 household_id; OPTIONAL INT64 store_id; \
        OPTIONAL INT64 basket_id; OPTIONAL INT64 product_id; OPTIONAL INT64 quantity; \
        OPTIONAL DOUBLE sales_value; OPTIONAL INT96 transaction_timestamp; }";
    const DAYS_TO_2017: u32 = 17_167; // days from 1970-01-01 to 2017-01-01

    /// Writes a file of two rows with the types of the real one; `levels` 0 makes a value null.
    fn file(dir: &Path, sales: [f64; 2], household_levels: [i16; 2]) -> PathBuf {
        let path = dir.join("transactions.parquet");
        let schema = Arc::new(parse_message_type(SCHEMA).unwrap());
        let properties = Arc::new(WriterProperties::builder().build());
        let mut writer = SerializedFileWriter::new(File::create(&path).unwrap(), schema, properties).unwrap();
        let mut group = writer.next_row_group().unwrap();
        let ints: [(&[i64], [i16; 2]); 5] = [
            (&[7, 8], household_levels),
            (&[1, 2], [1; 2]),
            (&[10, 11], [1; 2]),
            (&[5, 6], [1; 2]),
            (&[0, 2000], [1; 2]),
        ];
        for (values, levels) in ints {
            let present = levels.iter().filter(|level| **level == 1).count();
            let mut column = group.next_column().unwrap().unwrap();
            column.typed::<Int64Type>().write_batch(&values[..present], Some(&levels), None).unwrap();
            column.close().unwrap();
        }
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<DoubleType>().write_batch(&sales, Some(&[1, 1]), None).unwrap();
        column.close().unwrap();
        let mut first = Int96::new();
        let mut second = Int96::new();
        first.set_data(0, 0, 2_440_588 + DAYS_TO_2017);
        second.set_data(1_000_000_000, 0, 2_440_588 + DAYS_TO_2017 + 1);
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<Int96Type>().write_batch(&[first, second], Some(&[1, 1]), None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
        writer.close().unwrap();
        path
    }

    fn line(basket: i64, product: i64, timestamp: &str) -> Line {
        Line {
            basket,
            store: 1,
            household: 7,
            timestamp: timestamp.parse().unwrap(),
            product,
            quantity: 1,
            sales_value_cents: 100,
        }
    }

    #[test]
    fn reads_every_line_of_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let lines = read(&file(dir.path(), [0.29, 840.0], [1, 1])).unwrap();
        let first = Line { quantity: 0, sales_value_cents: 29, ..line(10, 5, "2017-01-01T00:00:00Z") };
        let second = Line {
            store: 2,
            household: 8,
            quantity: 2000,
            sales_value_cents: 84_000,
            ..line(11, 6, "2017-01-02T00:00:01Z")
        };
        assert_eq!(lines, [first, second]);
        let counts =
            Summary { lines: 2, baskets: 2, households: 2, stores: 2, zero_quantity: 1, over_1000: 1 };
        assert_eq!(Summary::of(&lines), counts);
    }

    #[test]
    fn refuses_a_null_and_a_part_of_a_cent() {
        let dir = tempfile::tempdir().unwrap();
        let null = read(&file(dir.path(), [1.0, 2.0], [1, 0])).unwrap_err();
        assert!(
            matches!(null, SalesError::ColumnLength { column: "household_id", found: 1, promised: 2 }),
            "{null}"
        );
        let cents = read(&file(dir.path(), [1.0, 2.005], [1, 1])).unwrap_err();
        assert!(matches!(cents, SalesError::NotCents { basket: 11, .. }), "{cents}");
    }

    #[test]
    fn rounding_noise_is_not_a_part_of_a_cent() {
        assert_eq!(cents(1.776_356_839_400_25e-15), Some(0));
        assert_eq!(cents(-1.776_356_839_400_25e-15), Some(0));
        assert_eq!(cents(0.289_999_999_999_9), Some(29));
        assert_eq!(cents(0.004), None);
        assert_eq!(cents(f64::NAN), None);
        assert_eq!(cents(f64::INFINITY), None);
    }

    #[test]
    fn names_the_basket_that_has_two_stores_households_or_times() {
        let base = line(10, 5, "2017-01-01T08:00:00Z");
        assert!(check_baskets(&[base.clone(), Line { product: 6, ..base.clone() }]).is_ok());
        for (what, other) in [
            ("store", Line { store: 2, ..base.clone() }),
            ("household", Line { household: 8, ..base.clone() }),
            ("time stamp", line(10, 6, "2017-01-01T08:00:01Z")),
        ] {
            let error = check_baskets(&[base.clone(), other]).unwrap_err().to_string();
            assert!(error.starts_with(&format!("basket 10 has more than one {what}")), "{error}");
        }
    }

    #[test]
    fn keeps_both_end_days_and_sorts_within_them() {
        let mut lines = vec![
            line(3, 1, "2017-01-03T00:00:00Z"),
            line(2, 9, "2017-01-02T23:59:59Z"),
            line(2, 4, "2017-01-02T23:59:59Z"),
            line(1, 1, "2017-01-02T00:00:00Z"),
            line(0, 1, "2016-12-31T23:59:59Z"),
        ];
        keep_days(&mut lines, "2017-01-01".parse().ok(), "2017-01-02".parse().ok());
        sort(&mut lines);
        let order: Vec<_> = lines.iter().map(|line| (line.basket, line.product)).collect();
        assert_eq!(order, [(1, 1), (2, 4), (2, 9)]);
    }
}
