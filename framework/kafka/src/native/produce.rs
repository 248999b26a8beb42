//! Producing by a topic handle, with headers, the partitioner of the client and a number that comes back.

use std::{ffi::c_void, ptr};

use aqueduct_core::NewRecord;
use rdkafka::{
    bindings::{
        self as sys, RD_KAFKA_MSG_F_COPY, rd_kafka_vtype_t as Kind, rd_kafka_vu_s__bindgen_ty_1 as Value,
        rd_kafka_vu_s__bindgen_ty_1__bindgen_ty_1 as Memory, rd_kafka_vu_t as Argument,
    },
    types::RDKafkaErrorCode,
};

use super::Topic;

/// Takes a record into the client's queue, copying its bytes; `opaque` comes back with its delivery report.
pub(crate) fn produce(
    topic: &Topic,
    record: &NewRecord,
    partition: i32,
    opaque: usize,
) -> Result<(), RDKafkaErrorCode> {
    let memory = |bytes: Option<&[u8]>| Memory {
        // An empty value has a pointer, though to nothing: null means that there is none.
        ptr: bytes.map_or(ptr::null_mut(), |bytes| bytes.as_ptr().cast_mut().cast::<c_void>()),
        size: bytes.map_or(0, <[u8]>::len),
    };
    let mut arguments = [
        Argument { vtype: Kind::RD_KAFKA_VTYPE_RKT, u: Value { rkt: topic.pointer.as_ptr() } },
        Argument { vtype: Kind::RD_KAFKA_VTYPE_PARTITION, u: Value { i32_: partition } },
        Argument { vtype: Kind::RD_KAFKA_VTYPE_MSGFLAGS, u: Value { i: RD_KAFKA_MSG_F_COPY } },
        Argument { vtype: Kind::RD_KAFKA_VTYPE_VALUE, u: Value { mem: memory(record.value.as_deref()) } },
        Argument { vtype: Kind::RD_KAFKA_VTYPE_KEY, u: Value { mem: memory(record.key.as_deref()) } },
        Argument { vtype: Kind::RD_KAFKA_VTYPE_TIMESTAMP, u: Value { i64_: record.timestamp.as_millis() } },
        Argument {
            vtype: Kind::RD_KAFKA_VTYPE_OPAQUE,
            u: Value { ptr: ptr::without_provenance_mut(opaque) },
        },
        Argument { vtype: Kind::RD_KAFKA_VTYPE_END, u: Value { ptr: ptr::null_mut() } },
    ];
    let mut count = arguments.len() - 1;
    let headers = Headers::of(record);
    if let Some(headers) = &headers {
        arguments[count] = Argument { vtype: Kind::RD_KAFKA_VTYPE_HEADERS, u: Value { headers: headers.0 } };
        count += 1;
    }
    // SAFETY: each argument's union holds what its kind says; bytes are copied during the call (`MSG_F_COPY`, keys
    // always); the client owns the headers only where the call succeeds.
    let error = unsafe { sys::rd_kafka_produceva(topic.client.pointer(), arguments.as_ptr(), count) };
    if error.is_null() {
        std::mem::forget(headers);
        return Ok(());
    }
    // SAFETY: the error is ours, read once and given back once.
    unsafe {
        let code = sys::rd_kafka_error_code(error);
        sys::rd_kafka_error_destroy(error);
        Err(code.into())
    }
}

/// Headers on their way to a record.
struct Headers(*mut sys::rd_kafka_headers_t);

impl Headers {
    fn of(record: &NewRecord) -> Option<Self> {
        if record.headers.as_block().is_empty() {
            return None;
        }
        // SAFETY: gives a list of ours; the number is a hint.
        let list = Self(unsafe { sys::rd_kafka_headers_new(8) });
        for header in record.headers.iter() {
            let value = header.value.map_or(ptr::null(), |value| value.as_ptr().cast::<c_void>());
            let sizes = (
                isize::try_from(header.name.len()).unwrap_or(0),
                isize::try_from(header.value.map_or(0, <[u8]>::len)).unwrap_or(0),
            );
            // SAFETY: the bytes are valid for the call, which copies them, and have these lengths; a null value is
            // stored as none. The call cannot fail.
            unsafe { sys::rd_kafka_header_add(list.0, header.name.as_ptr().cast(), sizes.0, value, sizes.1) };
        }
        Some(list)
    }
}

impl Drop for Headers {
    fn drop(&mut self) {
        // SAFETY: only reached where no record took the list.
        unsafe { sys::rd_kafka_headers_destroy(self.0) }
    }
}
