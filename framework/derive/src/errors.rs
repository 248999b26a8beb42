//! All that is wrong with a declaration, reported at once.

use proc_macro2::{Span, TokenStream};
use quote::ToTokens;

/// Compile errors, collected.
#[derive(Default)]
pub(crate) struct Errors(Option<syn::Error>);

impl Errors {
    /// Adds an error at `place`.
    pub(crate) fn at(&mut self, place: impl ToTokens, message: impl std::fmt::Display) {
        self.push(syn::Error::new_spanned(place, message));
    }

    /// Adds an error at a span.
    pub(crate) fn at_span(&mut self, span: Span, message: impl std::fmt::Display) {
        self.push(syn::Error::new(span, message));
    }

    /// Adds an error.
    pub(crate) fn push(&mut self, error: syn::Error) {
        match &mut self.0 {
            None => self.0 = Some(error),
            Some(first) => first.combine(error),
        }
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The errors as code, or nothing.
    pub(crate) fn into_tokens(self) -> TokenStream {
        self.0.map(|error| error.to_compile_error()).unwrap_or_default()
    }
}

/// Refuses `#[event(..)]` where it would be ignored.
pub(crate) fn refuse_inner<'a>(
    attributes: impl IntoIterator<Item = &'a syn::Attribute>,
    errors: &mut Errors,
) {
    for attribute in attributes {
        if attribute.path().is_ident("event") {
            errors.at(attribute, "`#[event(..)]` belongs above the type, not inside it");
        }
    }
}

/// Refuses type parameters; says whether there were none.
pub(crate) fn refuse_generics(input: &syn::DeriveInput, what: &str, errors: &mut Errors) -> bool {
    let generics = &input.generics;
    if generics.params.is_empty() && generics.where_clause.is_none() {
        return true;
    }
    let message = format!(
        "{what} cannot be generic: the name of an event stands for one type of payload; write one type for each"
    );
    if generics.params.is_empty() {
        errors.at(&generics.where_clause, message);
    } else {
        errors.at(&generics.params, message);
    }
    false
}
