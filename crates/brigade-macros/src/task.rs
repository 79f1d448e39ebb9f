//! `#[task]`: the function becomes the description of a call, its body an entry of the registry.

use proc_macro2::TokenStream;
use quote::{format_ident, quote, quote_spanned};
use syn::punctuated::Punctuated;
use syn::spanned::Spanned as _;
use syn::{
    Attribute, Error, FnArg, GenericArgument, Ident, ItemFn, Pat, PatType, PathArguments, Result,
    ReturnType, Safety, Signature, Token, Type,
};

use crate::options;

pub(crate) fn expand(options: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let options = options::parse(options)?;
    let ItemFn {
        attrs,
        vis,
        modifiers: _,
        sig,
        block,
    } = syn::parse2(item)?;
    check(&sig)?;
    let inputs = Inputs::of(&sig.inputs)?;
    let output = Output::of(&sig.output)?;

    let ident = &sig.ident;
    let (docs, body_attrs): (Vec<Attribute>, Vec<Attribute>) =
        attrs.into_iter().partition(is_for_caller);
    // Names of our own: one of the user's may be that of the function.
    let values: Vec<Ident> = (0..inputs.names.len())
        .map(|index| format_ident!("__argument{index}"))
        .collect();
    let invoke = invoke(&sig, &inputs, &values, &output);
    let checks = checks(ident, &inputs, &values, &output, sig.asyncness.is_some());
    let setters = options.setters.clone();
    let entry = entry(options, ident, &inputs, &output)?;
    let (names, types, value) = (&inputs.names, &inputs.types, &output.value);
    // Taken before the function stands there: within its block it would be what an argument of its
    // name means.
    let (given, arguments) = match names.is_empty() {
        true => (TokenStream::new(), quote!(())),
        false => (
            quote!(let __arguments = (#(#names,)*);),
            quote!(__arguments),
        ),
    };

    Ok(quote! {
        #(#docs)*
        #[allow(clippy::too_many_arguments)]
        #vis fn #ident(#(#names: #types),*) -> ::brigade::Call<#value> {
            #given
            {
                use ::brigade::__private as __p;

                #(#body_attrs)* #sig #block

                #checks

                #invoke

                #entry

                __p::call(&__TASK, #arguments) #setters
            }
        }
    })
}

/// The function that decodes the arguments, runs the task, and encodes its result.
fn invoke(sig: &Signature, inputs: &Inputs, values: &[Ident], output: &Output) -> TokenStream {
    let (ident, types) = (&sig.ident, &inputs.types);
    let returned = if output.is_result {
        quote!(of_result)
    } else {
        quote!(of_value)
    };
    let context = inputs.context.then(|| quote!(&__cx,));
    let call = quote!(#ident(#context #(#values),*));
    let (kind, run) = if sig.asyncness.is_some() {
        (
            quote!(future),
            quote!(async move { __p::Returned::#returned(__codec, #call.await) }),
        )
    } else {
        (
            quote!(now),
            quote!(__p::Returned::#returned(__codec, #call)),
        )
    };
    quote! {
        fn __invoke(__cx: ::brigade::Context, __codec: ::brigade::Codec, __payload: &[u8]) -> __p::Invocation {
            __p::Invocation::#kind(__codec, __payload, move |(#(#values,)*): (#(#types,)*)| #run)
        }
    }
}

/// The entry of the registry.
fn entry(
    options: options::Options,
    ident: &Ident,
    inputs: &Inputs,
    output: &Output,
) -> Result<TokenStream> {
    let name = options.name.unwrap_or_else(|| ident.to_string());
    let aliases = options.aliases;
    if aliases.contains(&name) {
        return Err(Error::new(
            ident.span(),
            format!("{name:?} is the task's name now: leave it out of its former names (aliases)"),
        ));
    }
    let queue = options.queue.unwrap_or_else(|| name.clone());
    let codec = format_ident!("{}", options.codec.unwrap_or("MessagePack"));
    let (setters, idempotent) = (options.setters, options.idempotent);
    let (types, value) = (&inputs.types, &output.value);
    Ok(quote! {
        #[__p::linkme::distributed_slice(__p::TASKS)]
        #[linkme(crate = ::brigade::__private::linkme)]
        static __TASK: __p::TaskEntry = __p::TaskEntry {
            name: #name,
            aliases: &[#(#aliases),*],
            path: || ::core::any::type_name_of_val(&__invoke),
            queue: #queue,
            place: ::core::concat!(::core::file!(), ":", ::core::line!()),
            codec: ::brigade::Codec::#codec,
            idempotent: #idempotent,
            signature: __p::signature::<(#(#types,)*), #value>,
            body: || ::core::any::type_name_of_val(&#ident),
            options: |call| call #setters,
            invoke: __invoke,
        };
    })
}

/// What only the compiler's types can tell: that a result hides behind no alias, and that a future
/// may go to another thread.
fn checks(
    ident: &Ident,
    inputs: &Inputs,
    values: &[Ident],
    output: &Output,
    is_async: bool,
) -> TokenStream {
    let mut checks = TokenStream::new();
    if let Some(ty) = &output.unnamed {
        let text = "this type is another name of a Result: write Result<T, E>, io::Result<T> or \
            anyhow::Result<T>, so that an error is seen to be one";
        checks.extend(quote_spanned!(ty.span()=> const _: () = {
            #[allow(unused_imports)]
            use ::brigade::__private::NoResult as _;
            ::core::assert!(!::brigade::__private::IsResult::<#ty>::YES, #text);
        };));
    }
    if is_async {
        let types = &inputs.types;
        let context = inputs.context.then(|| quote!(__cx,));
        let probe = quote_spanned!(ident.span()=> __p::future_of_a_task((&&__p::SendProbe(&#ident(#context #(#values),*))).told()));
        checks.extend(quote! {
            fn __check(__cx: &::brigade::Context, #(#values: #types),*) {
                #[allow(unused_imports)]
                use ::brigade::__private::{MaySend as _, MayNotSend as _};
                let _ = __cx;
                #probe;
            }
        });
    }
    checks
}

fn check(sig: &Signature) -> Result<()> {
    let refuse = |tokens: &dyn quote::ToTokens, why: &str| {
        Err(Error::new_spanned(tokens.to_token_stream(), why))
    };
    if !sig.generics.params.is_empty() {
        return refuse(
            &sig.generics,
            "a task is found by its name, so it cannot be generic",
        );
    }
    if let Safety::Unsafe(unsafety) = &sig.safety {
        return refuse(unsafety, "a task cannot be unsafe: any caller may call it");
    }
    if let Some(abi) = &sig.abi {
        return refuse(abi, "a task cannot have an ABI");
    }
    if let Some(variadic) = &sig.variadic {
        return refuse(variadic, "a task cannot be variadic");
    }
    Ok(())
}

/// Documentation, `cfg` and lint levels belong to what the caller sees; the rest to the body.
fn is_for_caller(attr: &Attribute) -> bool {
    ["doc", "cfg", "deprecated", "must_use"]
        .iter()
        .any(|name| attr.path().is_ident(name))
}

struct Inputs {
    context: bool,
    names: Vec<Ident>,
    types: Vec<Type>,
}

impl Inputs {
    fn of(inputs: &Punctuated<FnArg, Token![,]>) -> Result<Self> {
        let mut found = Self {
            context: false,
            names: Vec::new(),
            types: Vec::new(),
        };
        for (index, input) in inputs.iter().enumerate() {
            let FnArg::Typed(PatType { pat, ty, .. }) = input else {
                return Err(Error::new_spanned(
                    input,
                    "a task is a free function, it has no self",
                ));
            };
            if index == 0 && is_context(ty) {
                found.context = true;
                continue;
            }
            if matches!(**ty, Type::Reference(_)) {
                return Err(Error::new(
                    ty.span(),
                    "arguments travel to another process: take an owned type, for example String",
                ));
            }
            if matches!(**ty, Type::ImplTrait(_)) {
                return Err(Error::new(
                    ty.span(),
                    "a task is found by its name, so it cannot be generic",
                ));
            }
            found.names.push(match &**pat {
                Pat::Ident(pat) if pat.subpat.is_none() => pat.ident.clone(),
                _ => format_ident!("arg{index}"),
            });
            found.types.push((**ty).clone());
        }
        if found.types.len() > 12 {
            return Err(Error::new_spanned(
                inputs,
                "a task has at most 12 arguments: use a struct",
            ));
        }
        Ok(found)
    }
}

fn is_context(ty: &Type) -> bool {
    let Type::Reference(reference) = ty else {
        return false;
    };
    let Type::Path(path) = &*reference.elem else {
        return false;
    };
    path.path
        .segments
        .last()
        .is_some_and(|segment| segment.ident == "Context")
}

struct Output {
    is_result: bool,
    value: Type,
    /// The type as it stands there, if it has another name than `Result`.
    unnamed: Option<Type>,
}

impl Output {
    /// `Result<T, ..>` under any path gives `T`, `fmt::Result` and alike give nothing; anything
    /// else is the value itself.
    fn of(output: &ReturnType) -> Result<Self> {
        let ReturnType::Type(_, ty) = output else {
            return Ok(Self {
                is_result: false,
                value: syn::parse_quote!(()),
                unnamed: None,
            });
        };
        travels(ty)?;
        if let Type::Path(path) = &**ty
            && let Some(segment) = path.path.segments.last()
            && segment.ident == "Result"
        {
            let first = match &segment.arguments {
                PathArguments::AngleBracketed(arguments) => arguments.args.first(),
                _ => None,
            };
            let value = match first {
                Some(GenericArgument::Type(value)) => value.clone(),
                _ => syn::parse_quote!(()),
            };
            return Ok(Self {
                is_result: true,
                value,
                unnamed: None,
            });
        }
        Ok(Self {
            is_result: false,
            value: (**ty).clone(),
            unnamed: Some((**ty).clone()),
        })
    }
}

/// Refuses a result whose type says that it cannot travel.
fn travels(ty: &Type) -> Result<()> {
    let refuse = |why: &str| Err(Error::new(ty.span(), why));
    match ty {
        Type::Reference(_) => refuse(
            "a result travels to another process: return an owned type, a String instead of &str \
                for instance",
        ),
        Type::ImplTrait(_) => refuse(
            "a result travels to another process: return a type with a name, a Vec instead of impl \
                Iterator for instance",
        ),
        Type::Never(_) => refuse(
            "a task gives a result or ends without one: return nothing instead of `!`, and end \
                when the context says so (cx.is_cancelled())",
        ),
        Type::TraitObject(_) => refuse(
            "a result travels to another process: return the type itself, or an enum of the types \
                that it may be",
        ),
        Type::Ptr(_) => refuse(
            "a result travels to another process, where an address means nothing: return the value \
                itself",
        ),
        Type::FnPtr(_) => refuse(
            "a result travels to another process, where an address means nothing: return a value",
        ),
        Type::Tuple(tuple) => tuple.elems.iter().try_for_each(travels),
        Type::Array(array) => travels(&array.elem),
        Type::Paren(paren) => travels(&paren.elem),
        Type::Group(group) => travels(&group.elem),
        Type::Path(path) => {
            let Some(PathArguments::AngleBracketed(arguments)) =
                path.path.segments.last().map(|segment| &segment.arguments)
            else {
                return Ok(());
            };
            let is_result = path
                .path
                .segments
                .last()
                .is_some_and(|segment| segment.ident == "Result");
            // An error travels as text: it may be a Box<dyn Error>.
            let carried = if is_result { 1 } else { arguments.args.len() };
            arguments
                .args
                .iter()
                .take(carried)
                .try_for_each(|argument| match argument {
                    GenericArgument::Type(ty) => travels(ty),
                    _ => Ok(()),
                })
        }
        _ => Ok(()),
    }
}
