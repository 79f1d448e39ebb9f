//! [`FlowStep`]: a task that may stand behind others, and [`Following`]: the arguments that follow
//! a result.

use std::any::type_name;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::args::Args;
use crate::call::Call;
use crate::codec::Codec;
use crate::error::{Error, ErrorKind};
use crate::function::Function;
use crate::job::Job;
use crate::registry;
use crate::task::Task;
use crate::to_job::ToJob;

/// A task that may stand behind others in a flow; `A` are its arguments: a function that is a
/// `#[task]`, or a [`Task`] constant.
pub trait FlowStep<A> {
    /// Its result.
    type Output;

    /// The job, with a JSON array of the arguments that are known.
    ///
    /// # Errors
    ///
    /// `UnknownTask` for a function that is no task.
    #[doc(hidden)]
    fn job(self, known: String) -> Result<Job, Error>;
}

impl<A: Args, S: DeserializeOwned> FlowStep<A> for Task<A, S> {
    type Output = S;

    fn job(self, known: String) -> Result<Job, Error> {
        Call::<S>::of_json_text(self.name().to_owned(), known).to_job()
    }
}

impl<F, A, S> FlowStep<A> for F
where
    F: Function<A, Output = Call<S>>,
{
    type Output = S;

    fn job(self, known: String) -> Result<Job, Error> {
        let name = type_name::<F>();
        let Some(task) = registry::described_by(name) else {
            let text = format!(
                "join {name} to a flow: it is no #[task]; give the task's function itself, or a \
                    Task constant"
            );
            return Err(Error::new(ErrorKind::UnknownTask, text));
        };
        let mut call = Call::<()>::of_json_text(task.name.to_owned(), known);
        call.request.queue = Some(task.queue);
        call.request.options = Some(Box::new(task.call_options()));
        call.to_job()
    }
}

/// Arguments that follow a result: a tuple of up to 11 serde types.
pub trait Following<R>: Serialize {
    /// The result and these.
    type Args;
}

macro_rules! following {
    ($($name:ident)+) => {
        impl<R, $($name: Serialize),+> Following<R> for ($($name,)+) {
            type Args = (R, $($name),+);
        }
    };
}

following!(A);
following!(A B);
following!(A B C);
following!(A B C D);
following!(A B C D E);
following!(A B C D E F);
following!(A B C D E F G);
following!(A B C D E F G H);
following!(A B C D E F G H I);
following!(A B C D E F G H I J);
following!(A B C D E F G H I J K);

pub(super) fn json_of(rest: &impl Serialize) -> Result<String, Error> {
    let json = Codec::Json.encode(rest)?;
    String::from_utf8(json)
        .map_err(|e| Error::new(ErrorKind::Encode, "write arguments as JSON").with_source(e))
}
