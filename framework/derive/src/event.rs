//! `#[derive(Event)]`.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote, quote_spanned};
use syn::{Data, DeriveInput, Fields, Ident, Path, ext::IdentExt, spanned::Spanned};

use crate::{
    args::Args,
    errors::{Errors, refuse_generics, refuse_inner},
    grammar::suggest,
};

const ARGUMENTS: &[&str] = &["name", "topic", "version", "key", "upcasts", "crate"];

pub(crate) fn expand(input: &DeriveInput) -> TokenStream {
    let mut errors = Errors::default();
    let args = Args::read(&input.attrs, ARGUMENTS, &mut errors);
    let fields = match &input.data {
        Data::Struct(data) => &data.fields,
        Data::Enum(_) | Data::Union(_) => {
            let message =
                "an event is a struct: for an enum with one event in each variant derive `EventSet`";
            errors.at(&input.ident, message);
            return errors.into_tokens();
        }
    };
    if !refuse_generics(input, "an event", &mut errors) {
        return errors.into_tokens();
    }
    refuse_inner(fields.iter().flat_map(|field| &field.attrs), &mut errors);
    check_arguments(&input.ident, &args, &mut errors);
    if let Some(key) = &args.key {
        check_key(&input.ident, fields, key, &mut errors);
    }
    if !errors.is_empty() {
        // The type is an event all the same, so that its uses elsewhere are not reported as well.
        let placeholder = implement(&input.ident, &Args::default(), &args.krate());
        let errors = errors.into_tokens();
        return quote! { #errors #placeholder };
    }
    implement(&input.ident, &args, &args.krate())
}

fn check_arguments(ident: &Ident, args: &Args, errors: &mut Errors) {
    let missing = |argument, example: &str| {
        format!("`{ident}` has no {argument}: write #[event({argument} = \"{example}\", ..)] above it")
    };
    if !args.present {
        let example = format!("#[event(name = \"service.{ident}\", topic = \"service.topic\")]");
        errors.at(ident, format!("`{ident}` has no name and no topic: write {example} above it"));
    } else if errors.is_empty() {
        // Where an argument was not understood, it may be the one that is missing.
        if args.name.is_none() {
            errors.at(ident, missing("name", &format!("service.{ident}")));
        }
        if args.topic.is_none() {
            errors.at(ident, missing("topic", "service.topic"));
        }
    }
    if let (Some(older), None | Some((1, _))) = (&args.upcasts, &args.version) {
        errors.at(older, "version 1 has no older version to upcast: raise `version`, or leave `upcasts` out");
    }
}

fn check_key(ident: &Ident, fields: &Fields, key: &[Ident], errors: &mut Errors) {
    let names: Vec<_> = fields.iter().filter_map(|field| field.ident.as_ref()).collect();
    for part in key {
        if names.contains(&part) {
            continue;
        }
        if matches!(fields, Fields::Unnamed(_)) {
            errors
                .at(part, format!("the fields of `{ident}` have no names: give them some to use one as key"));
        } else {
            let known: Vec<_> = names.iter().map(ToString::to_string).collect();
            errors
                .at(part, format!("`{ident}` has no field `{part}`: {}", suggest(&part.to_string(), &known)));
        }
    }
}

fn implement(ident: &Ident, args: &Args, krate: &Path) -> TokenStream {
    let literal = |value: &Option<syn::LitStr>| match value {
        Some(literal) => literal.to_token_stream(),
        None => quote!("undeclared"),
    };
    let (name, topic) = (literal(&args.name), literal(&args.topic));
    let version = args.version.as_ref().map_or(1, |(version, _)| *version);
    let (key_text, key) = key(args.key.as_deref(), krate);
    let (older, assertions) = upcast(ident, args, version, krate);
    // Spanned at the type: a missing serde derive is reported there.
    let newest = quote_spanned!(ident.span()=> #krate::event::decode_json::<Self>(payload));
    quote! {
        #assertions

        #[automatically_derived]
        impl #krate::Event for #ident {
            const INFO: #krate::EventInfo = #krate::EventInfo {
                event: #krate::EventType::new(#name, #version),
                topic: #topic,
                key: #key_text,
            };

            fn key(&self) -> ::core::option::Option<#krate::Key> {
                #key
            }

            fn decode(
                version: u32,
                payload: &[u8],
            ) -> ::core::result::Result<Self, #krate::DecodeError> {
                // Not `Self::INFO`, which would report a missing serde derive a second time.
                const EVENT: #krate::EventType = #krate::EventType::new(#name, #version);
                if version == EVENT.version {
                    #newest
                } else if version > EVENT.version {
                    ::core::result::Result::Err(#krate::DecodeError::NewerVersion { event: EVENT, version })
                } else {
                    #older
                }
            }
        }
    }
}

/// The text of the key in `EventInfo`, and the expression that makes it.
fn key(fields: Option<&[Ident]>, krate: &Path) -> (TokenStream, TokenStream) {
    let Some(fields) = fields else {
        return (quote!(::core::option::Option::None), quote!(::core::option::Option::None));
    };
    let text = fields.iter().map(|field| field.unraw().to_string()).collect::<Vec<_>>().join(", ");
    // Spanned at the field in the attribute: that is where "cannot be part of an event's key" shall point.
    let parts = fields.iter().map(|field| quote_spanned!(field.span()=> &self.#field));
    let key = match fields {
        [_] => quote!(#krate::Key::of(#(#parts)*)),
        _ => quote!(#krate::Key::of_parts(&[#(#parts),*])),
    };
    (quote!(::core::option::Option::Some(#text)), quote!(::core::option::Option::Some(#key)))
}

/// What reads older versions, and the checks that the declared chain is one.
fn upcast(ident: &Ident, args: &Args, version: u32, krate: &Path) -> (TokenStream, TokenStream) {
    let (Some(older), Some(name)) = (&args.upcasts, &args.name) else {
        let none =
            quote!(::core::result::Result::Err(#krate::DecodeError::NoUpcaster { event: EVENT, version }));
        return (none, TokenStream::new());
    };
    let (name, before) = (name.value(), version - 1);
    let older_text = older.to_token_stream().to_string().replace(' ', "");
    let wrong_version = format!(
        "`{ident}` is version {version}, so `upcasts = {older_text}` must be version {before}: \
         write `version = {before}` on `{older_text}`, or name the type that is"
    );
    let wrong_name = format!(
        "`{ident}` is called \"{name}\", so `upcasts = {older_text}` must be called that too: \
         versions of one event have one name"
    );
    let span = older.span();
    // Spanned at the older type, as a whole: that is where a missing `From` or `Event` shall be reported, once.
    let decode = quote_spanned! {span=>
        <#older as #krate::Event>::decode(version, payload).map(<Self as ::core::convert::From<#older>>::from)
    };
    let assertions = quote_spanned! {span=>
        const _: () = ::core::assert!(
            #krate::event::same_name(<#older as #krate::Event>::INFO.event.name, #name),
            #wrong_name
        );
        const _: () = ::core::assert!(<#older as #krate::Event>::INFO.event.version == #before, #wrong_version);
    };
    (decode, assertions)
}
