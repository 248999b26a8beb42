//! The library's own description of its properties, which our table is compared with.

use rdkafka::bindings as sys;

use super::owned;

/// As its CONFIGURATION.md.
pub(crate) fn description() -> String {
    let mut text = std::ptr::null_mut();
    let mut length = 0;
    // SAFETY: both places outlive the stream, which is closed here.
    let closed = unsafe {
        let stream = libc::open_memstream(&raw mut text, &raw mut length);
        assert!(!stream.is_null(), "no memory");
        sys::rd_kafka_conf_properties_show(stream.cast());
        libc::fclose(stream)
    };
    assert_eq!(closed, 0, "no memory");
    // SAFETY: a closed stream leaves a text that ends with a zero, which is copied and given back once.
    unsafe {
        let copied = owned(text);
        libc::free(text.cast());
        copied
    }
}
