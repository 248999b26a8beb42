//! The arguments of `#[event(..)]`.

use proc_macro2::TokenTree;
use quote::ToTokens;
use syn::{
    Attribute, Ident, LitInt, LitStr, Path, Token, Type,
    ext::IdentExt,
    parse::{ParseStream, Result},
    punctuated::Punctuated,
};

use crate::{
    errors::Errors,
    grammar::{ends_like_a_version, fault, suggest},
};

/// What was declared, as far as it could be read.
#[derive(Default)]
pub(crate) struct Args {
    pub(crate) name: Option<LitStr>,
    pub(crate) topic: Option<LitStr>,
    pub(crate) version: Option<(u32, LitInt)>,
    pub(crate) key: Option<Vec<Ident>>,
    pub(crate) upcasts: Option<Type>,
    krate: Option<Path>,
    /// Whether there was an `#[event]` at all.
    pub(crate) present: bool,
}

impl Args {
    /// Reads all `#[event(..)]` of a type; only arguments in `known` are taken.
    pub(crate) fn read(attributes: &[Attribute], known: &[&str], errors: &mut Errors) -> Self {
        let mut args = Self::default();
        let mut seen = Vec::new();
        for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("event")) {
            args.present = true;
            let read = attribute.parse_args_with(|input: ParseStream<'_>| {
                while !input.is_empty() {
                    if let Err(error) = args.argument(input, known, &mut seen) {
                        errors.push(error);
                        // Go on behind the next comma, so that one mistake does not hide the others.
                        while !input.is_empty() && !input.peek(Token![,]) {
                            input.parse::<TokenTree>()?;
                        }
                    }
                    if !input.is_empty() {
                        input.parse::<Token![,]>()?;
                    }
                }
                Ok(())
            });
            if let Err(error) = read {
                errors.push(error);
            }
        }
        args
    }

    /// The path to core's items.
    pub(crate) fn krate(&self) -> Path {
        self.krate.clone().unwrap_or_else(|| syn::parse_quote!(::aqueduct::core))
    }

    fn argument(&mut self, input: ParseStream<'_>, known: &[&str], seen: &mut Vec<Ident>) -> Result<()> {
        let argument = input.call(Ident::parse_any)?;
        let text = argument.unraw().to_string();
        if !known.contains(&text.as_str()) {
            let known: Vec<_> = known.iter().map(|name| (*name).to_owned()).collect();
            let message = format!("there is no argument `{text}`: {}", suggest(&text, &known));
            return Err(syn::Error::new(argument.span(), message));
        }
        if seen.contains(&argument) {
            return Err(syn::Error::new(argument.span(), format!("`{text}` is given twice: keep one")));
        }
        seen.push(argument.clone());
        if !input.peek(Token![=]) {
            let example = match text.as_str() {
                "name" => "name = \"service.SomethingHappened\"",
                "topic" => "topic = \"service.topic\"",
                "version" => "version = 2",
                "key" => "key = field",
                "upcasts" => "upcasts = OlderType",
                _ => "crate = path",
            };
            return Err(syn::Error::new(argument.span(), format!("`{text}` needs a value: {example}")));
        }
        input.parse::<Token![=]>()?;
        match text.as_str() {
            "name" => self.name = Some(name(input)?),
            "topic" => self.topic = Some(literal(input, "topic", "service.topic")?),
            "version" => self.version = Some(version(input)?),
            "key" => self.key = Some(key(input)?),
            "upcasts" => self.upcasts = Some(input.parse()?),
            _ => self.krate = Some(input.call(Path::parse_mod_style)?),
        }
        Ok(())
    }
}

fn literal(input: ParseStream<'_>, argument: &str, example: &str) -> Result<LitStr> {
    let literal: LitStr = input.parse().map_err(|error| {
        syn::Error::new(error.span(), format!("write a text: {argument} = \"{example}\""))
    })?;
    match fault(&literal.value()) {
        None => Ok(literal),
        Some(reason) => Err(syn::Error::new(
            literal.span(),
            format!("{:?} is not a {argument}: {reason}; write it like \"{example}\"", literal.value()),
        )),
    }
}

fn name(input: ParseStream<'_>) -> Result<LitStr> {
    let name = literal(input, "name", "service.SomethingHappened")?;
    if ends_like_a_version(&name.value()) {
        let message = format!(
            "{:?} ends like a version: leave that out of the name and write `version = ..`",
            name.value()
        );
        return Err(syn::Error::new(name.span(), message));
    }
    Ok(name)
}

fn version(input: ParseStream<'_>) -> Result<(u32, LitInt)> {
    let wrong = |span| syn::Error::new(span, "a version is a whole number from 1: version = 2");
    let literal: LitInt = input.parse().map_err(|error| wrong(error.span()))?;
    let number = literal.base10_parse().map_err(|_| wrong(literal.span()))?;
    if number == 0 {
        return Err(syn::Error::new(
            literal.span(),
            "versions start at 1: leave `version` out for the first",
        ));
    }
    Ok((number, literal))
}

/// One field, or a tuple of fields.
fn key(input: ParseStream<'_>) -> Result<Vec<Ident>> {
    if !input.peek(syn::token::Paren) {
        return Ok(vec![field(input)?]);
    }
    let fields;
    let parentheses = syn::parenthesized!(fields in input);
    let fields = match Punctuated::<Ident, Token![,]>::parse_terminated_with(&fields, |one| field(one)) {
        Ok(fields) => fields,
        Err(error) => {
            // What is left between the parentheses would be reported as unexpected, too.
            while !fields.is_empty() {
                fields.parse::<TokenTree>()?;
            }
            return Err(error);
        }
    };
    if fields.is_empty() {
        let message =
            "a key has at least one field: key = field; leave `key` out where order does not matter";
        return Err(syn::Error::new(parentheses.span.join(), message));
    }
    let mut seen: Vec<Ident> = Vec::new();
    for field in fields {
        if seen.contains(&field) {
            return Err(syn::Error::new(field.span(), format!("`{field}` is in the key twice: keep one")));
        }
        seen.push(field);
    }
    Ok(seen)
}

fn field(input: ParseStream<'_>) -> Result<Ident> {
    if input.peek(LitStr) {
        let text: LitStr = input.parse()?;
        let message = format!("write the field itself, without quotes: key = {}", text.value());
        return Err(syn::Error::new(text.span(), message));
    }
    let field = input.call(Ident::parse_any).map_err(|error| {
        syn::Error::new(error.span(), "a key is a named field or several: key = store, or key = (store, sku)")
    })?;
    if input.peek(Token![.]) || input.peek(Token![::]) {
        let mut path = field.to_token_stream();
        while !input.is_empty() && !input.peek(Token![,]) {
            path.extend([input.parse::<TokenTree>()?]);
        }
        let text = path.to_string().replace(' ', "");
        let message = format!(
            "`{text}` lies inside a field, a key names fields of the struct itself: give the struct a field for it, \
             or implement `EventKey` for the type of `{field}`"
        );
        return Err(syn::Error::new_spanned(path, message));
    }
    Ok(field)
}
