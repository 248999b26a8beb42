//! `#[derive(EventSet)]`.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote, quote_spanned};
use syn::{Data, DeriveInput, Fields, Ident, Path, Type, spanned::Spanned};

use crate::{
    args::Args,
    errors::{Errors, refuse_generics, refuse_inner},
};

pub(crate) fn expand(input: &DeriveInput) -> TokenStream {
    let mut errors = Errors::default();
    let args = Args::read(&input.attrs, &["crate"], &mut errors);
    let Data::Enum(data) = &input.data else {
        let message =
            "a set of events is an enum with one event in each variant: for a struct derive `Event`";
        errors.at(&input.ident, message);
        return errors.into_tokens();
    };
    refuse_generics(input, "a set of events", &mut errors);
    if data.variants.is_empty() {
        let ident = &input.ident;
        errors
            .at(ident, format!("`{ident}` has no variants: write one for each event, `Happened(Happened)`"));
    }
    let mut variants: Vec<(&Ident, &Type)> = Vec::new();
    for variant in &data.variants {
        refuse_inner(
            variant.attrs.iter().chain(variant.fields.iter().flat_map(|field| &field.attrs)),
            &mut errors,
        );
        let ident = &variant.ident;
        match &variant.fields {
            Fields::Unnamed(fields) if fields.unnamed.len() == 1 => {
                let event = &fields.unnamed[0].ty;
                let text = event.to_token_stream().to_string();
                match variants.iter().find(|(_, other)| other.to_token_stream().to_string() == text) {
                    Some((other, _)) => errors.at(
                        event,
                        format!("`{other}` and `{ident}` hold the same event: keep one of the two variants"),
                    ),
                    None => variants.push((ident, event)),
                }
            }
            Fields::Unnamed(_) | Fields::Named(_) | Fields::Unit => errors.at_span(
                variant.span(),
                format!("a variant holds exactly one event: `{ident}(SomethingHappened)`"),
            ),
        }
    }
    if !errors.is_empty() {
        return errors.into_tokens();
    }
    implement(&input.ident, &variants, &args.krate())
}

fn implement(ident: &Ident, variants: &[(&Ident, &Type)], krate: &Path) -> TokenStream {
    let names: Vec<_> = variants.iter().map(|(variant, _)| variant).collect();
    let events: Vec<_> =
        variants.iter().map(|(_, event)| quote_spanned!(event.span()=> <#event as #krate::Event>)).collect();
    let drafts = variants.iter().map(|(_, event)| quote_spanned!(event.span()=> #krate::Draft::of::<#event>));
    let conversions = variants.iter().map(|(variant, event)| {
        quote! {
            #[automatically_derived]
            impl ::core::convert::From<#event> for #ident {
                fn from(event: #event) -> Self {
                    Self::#variant(event)
                }
            }
        }
    });
    let assertions = distinct_names(variants, krate);
    quote! {
        #assertions

        #[automatically_derived]
        impl #krate::EventSet for #ident {
            const EVENTS: &'static [#krate::EventInfo] = &[#(#events::INFO),*];

            fn read(
                name: &str,
                version: u32,
                payload: &[u8],
            ) -> ::core::result::Result<Self, #krate::DecodeError> {
                #(if name == #events::INFO.event.name {
                    return #events::decode(version, payload).map(Self::#names);
                })*
                ::core::result::Result::Err(#krate::DecodeError::UnknownType {
                    name: ::std::borrow::ToOwned::to_owned(name),
                    version,
                })
            }

            fn info(&self) -> #krate::EventInfo {
                match self {
                    #(Self::#names(_) => #events::INFO,)*
                }
            }

            fn draft(&self) -> ::core::result::Result<#krate::Draft, #krate::EncodeError> {
                match self {
                    #(Self::#names(event) => #drafts(event),)*
                }
            }
        }

        #(#conversions)*
    }
}

/// Of two variants with one event name only the first would ever be decoded.
fn distinct_names(variants: &[(&Ident, &Type)], krate: &Path) -> TokenStream {
    let mut assertions = TokenStream::new();
    for (index, (first, first_event)) in variants.iter().enumerate() {
        for (second, second_event) in &variants[index + 1..] {
            let message = format!(
                "the events of `{first}` and `{second}` have the same name: keep the newest version, which upcasts \
                 the older"
            );
            assertions.extend(quote_spanned! {second_event.span()=>
                const _: () = ::core::assert!(
                    !#krate::event::same_name(
                        <#first_event as #krate::Event>::INFO.event.name,
                        <#second_event as #krate::Event>::INFO.event.name
                    ),
                    #message
                );
            });
        }
    }
    assertions
}
