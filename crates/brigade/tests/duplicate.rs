//! A program with two tasks of one name, which is a mistake of the whole program and so needs a
//! program of its own.

brigade::test_workers!();

mod one {
    #[brigade::task(name = "twin")]
    pub(crate) fn first() -> u8 {
        1
    }
}

mod two {
    #[brigade::task(name = "twin")]
    pub(crate) fn second() -> u8 {
        2
    }
}

#[tokio::test]
async fn bad_use_two_tasks_of_one_name_are_refused_with_both_places() {
    let error = brigade::Pool::builder()
        .workers(1)
        .start()
        .await
        .expect_err("it is refused");
    assert_eq!(error.kind(), brigade::ErrorKind::DuplicateTask);
    let text = error.to_string();
    let places = text.matches(concat!(file!(), ":")).count();
    assert!(text.contains("\"twin\"") && places == 2, "{text}");
}

#[tokio::test]
async fn bad_use_two_tasks_of_one_name_are_refused_in_the_caller_too() {
    for call in [one::first(), two::second()] {
        let error = call.run_here().await.expect_err("it is refused");
        assert_eq!(error.rejected(), Some(brigade::ErrorKind::DuplicateTask));
    }
}
