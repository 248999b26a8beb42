//! What the derives promise: behaviour here, compile errors in `ui`.

mod derived;
mod ui;
