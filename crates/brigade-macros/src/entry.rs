//! `#[main]`.

use proc_macro2::TokenStream;
use quote::quote;
use syn::parse::Parser as _;
use syn::{Error, ItemFn, LitInt, LitStr, Result};

pub(crate) fn expand(options: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let (mut flavor, mut threads) = (
        String::from("multi_thread"),
        quote!(::core::option::Option::None),
    );
    let parser = syn::meta::parser(|meta| {
        if meta.path.is_ident("flavor") {
            let value: LitStr = meta.value()?.parse()?;
            flavor = value.value();
            if !matches!(flavor.as_str(), "multi_thread" | "current_thread") {
                return Err(Error::new(
                    value.span(),
                    "flavor is \"multi_thread\" or \"current_thread\"",
                ));
            }
        } else if meta.path.is_ident("worker_threads") {
            let value: LitInt = meta.value()?.parse()?;
            if value.base10_parse::<usize>()? == 0 {
                return Err(Error::new(value.span(), "worker_threads is at least 1"));
            }
            threads = quote!(::core::option::Option::Some(#value));
        } else {
            return Err(meta.error("unknown option: there are flavor and worker_threads"));
        }
        Ok(())
    });
    parser.parse2(options)?;

    let ItemFn {
        attrs,
        vis,
        modifiers: _,
        mut sig,
        block,
    } = syn::parse2(item)?;
    if let Some(input) = sig.inputs.first() {
        return Err(Error::new_spanned(input, "main takes no arguments"));
    }
    let run = if sig.asyncness.take().is_some() {
        let current_thread = flavor == "current_thread";
        quote!(::brigade::__private::block_on(#current_thread, #threads, async move #block))
    } else {
        quote!(#block)
    };
    Ok(quote! {
        #(#attrs)* #vis #sig {
            ::brigade::init();
            #run
        }
    })
}
