use aqueduct_core::{
    EventKey, Headers, Key,
    key::partition_of,
    record::{HeaderBlock, HeadersBuilder},
};
use proptest::{collection::vec, option, prelude::*};

fn key(parts: &[String]) -> Key {
    let parts: Vec<&dyn EventKey> = parts.iter().map(|part| part as &dyn EventKey).collect();
    Key::of_parts(&parts)
}

/// Reads the parts of a key back: where that is possible, different parts never give one key.
fn parts_of(key: &Key) -> Vec<String> {
    let text = std::str::from_utf8(key.as_bytes()).unwrap();
    text.split('/').map(|part| part.replace("%2F", "/").replace("%25", "%")).collect()
}

proptest! {
    /// P2: two keys are equal only where their fields are. Red when `of_parts` leaves `%` as it is.
    #[test]
    fn a_key_says_its_parts(parts in vec(prop_oneof!["[/%2F5a]{0,6}", any::<String>()], 1..4)) {
        prop_assert_eq!(parts_of(&key(&parts)), parts);
    }

    /// P2. Red when `partition_of` takes the remainder of a signed hash.
    #[test]
    fn every_key_has_a_partition(key in vec(any::<u8>(), 0..40), partitions in 1..1_000_i32) {
        prop_assert!((0..partitions).contains(&partition_of(&key, partitions)));
    }

    /// P6: headers are kept byte for byte. Red when a null value is read as an empty one.
    #[test]
    fn headers_come_back_as_they_were(
        list in vec((vec(any::<u8>(), 0..20), option::of(vec(any::<u8>(), 0..40))), 0..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut builder = HeadersBuilder::new();
        for (name, value) in &list {
            builder.push(name, value.as_deref());
        }
        let headers = Headers::from_block(builder.build().as_block().clone());
        let read: Vec<_> =
            headers.iter().map(|header| (header.name.to_vec(), header.value.map(<[u8]>::to_vec))).collect();
        prop_assert_eq!(&read, &list);
        // A damaged block ends early; what is read before is right.
        let block = headers.as_block();
        let short = HeaderBlock(&block[..cut.index(block.len() + 1)]);
        for (header, (name, value)) in short.zip(&list) {
            prop_assert_eq!((header.name, header.value), (&name[..], value.as_deref()));
        }
    }
}
