//! Compile errors as users see them. After a deliberate change: `TRYBUILD=overwrite cargo test -p aqueduct-derive`,
//! then read each `.stderr` as somebody who does not know the framework.

#[test]
fn compile_errors_say_what_to_do() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}
