//! [`Function`]: plain functions that run as tasks without a registration.

use serde::Serialize;

use crate::address;
use crate::args::{Args, for_tuples};
use crate::codec::Codec;
use crate::context::Context;
use crate::invocation::{Invocation, Returned};

/// A function item or a capture-free closure that takes `A` as its arguments.
pub trait Function<A>: Copy + Send + Sync + 'static {
    /// What it returns.
    type Output;

    #[doc(hidden)]
    fn apply(&self, args: A) -> Self::Output;
}

impl<F, R> Function<()> for F
where
    F: Fn() -> R + Copy + Send + Sync + 'static,
{
    type Output = R;

    fn apply(&self, (): ()) -> R {
        self()
    }
}

macro_rules! function {
    ($($name:ident)+) => {
        impl<Fun, Out, $($name),+> Function<($($name,)+)> for Fun
        where
            Fun: Fn($($name),+) -> Out + Copy + Send + Sync + 'static,
        {
            type Output = Out;

            #[expect(non_snake_case, reason = "one name for a type and its value")]
            fn apply(&self, ($($name,)+): ($($name,)+)) -> Out {
                self($($name),+)
            }
        }
    };
}

for_tuples!(function);

/// Runs `F`, which has no state, on encoded arguments. Its address is what `pool.run` sends.
pub fn invoke_function<F, A>(_cx: Context, codec: Codec, payload: &[u8]) -> Invocation
where
    A: Args,
    F: Function<A>,
    F::Output: Serialize,
{
    let function = address::stateless::<F>();
    Invocation::now(codec, payload, |args: A| {
        Returned::of_value(codec, function.apply(args))
    })
}
