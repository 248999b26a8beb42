//! The file that the sample shop reads.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::Path,
};

use chrono::SecondsFormat;
use flate2::{Compression, GzBuilder};

use crate::sales::Line;

const HEADER: &str = "basket_id,store_id,household_id,timestamp,product_id,quantity,sales_value_cents";
/// "Unknown" in a gzip header.
const ANY_OPERATING_SYSTEM: u8 = 255;

/// Writes the lines to `path`, compressed when its name ends in `.gz`.
pub(crate) fn write(path: &Path, lines: &[Line]) -> io::Result<()> {
    let file = File::create(path)?;
    if path.extension().is_some_and(|extension| extension == "gz") {
        // The same lines give the same bytes at any time and on any system.
        let gzip = GzBuilder::new().mtime(0).operating_system(ANY_OPERATING_SYSTEM);
        let mut out = BufWriter::new(gzip.write(file, Compression::best()));
        write_lines(&mut out, lines)?;
        out.into_inner().map_err(io::IntoInnerError::into_error)?.finish()?.sync_all()
    } else {
        let mut out = BufWriter::new(file);
        write_lines(&mut out, lines)?;
        out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
    }
}

fn write_lines(out: &mut impl Write, lines: &[Line]) -> io::Result<()> {
    writeln!(out, "{HEADER}")?;
    for line in lines {
        let Line { basket, store, household, timestamp, product, quantity, sales_value_cents } = line;
        let timestamp = timestamp.to_rfc3339_opts(SecondsFormat::Secs, true);
        writeln!(out, "{basket},{store},{household},{timestamp},{product},{quantity},{sales_value_cents}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Read};

    use flate2::read::GzDecoder;

    use super::*;

    #[test]
    fn writes_the_same_text_plain_and_compressed() {
        let dir = tempfile::tempdir().unwrap();
        let line = Line {
            basket: 31_198_570_044,
            store: 330,
            household: 900,
            timestamp: "2017-01-01T11:53:26Z".parse().unwrap(),
            product: 1_095_275,
            quantity: 1,
            sales_value_cents: 50,
        };
        let (plain, compressed) = (dir.path().join("a.csv"), dir.path().join("a.csv.gz"));
        write(&plain, std::slice::from_ref(&line)).unwrap();
        write(&compressed, &[line]).unwrap();
        let expected = format!("{HEADER}\n31198570044,330,900,2017-01-01T11:53:26Z,1095275,1,50\n");
        assert_eq!(fs::read_to_string(plain).unwrap(), expected);
        let bytes = fs::read(compressed).unwrap();
        assert_eq!(bytes[4..8], [0; 4], "time of writing in the gzip header");
        let mut text = String::new();
        GzDecoder::new(&bytes[..]).read_to_string(&mut text).unwrap();
        assert_eq!(text, expected);
    }
}
