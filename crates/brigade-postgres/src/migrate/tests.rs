//! Schemas of older versions, and servers that are too old. The steps of later versions are made up
//! here, as there is only one version so far.

use std::sync::Arc;

use super::*;
use crate::database::Database;
use brigade_core::clock::Clock;
use brigade_testkit::postgres::Postgres;

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

const SECOND: &str = "create table brigade.second (number integer);
    insert into brigade.second select count(*) from brigade.facts;
    insert into brigade.facts (name, value) values ('second', '1');";

fn with(step: &str) -> Vec<String> {
    let mut steps = schema::steps();
    steps.push(step.to_owned());
    steps
}

/// A database with the schema of the first version, and its name.
async fn first_version() -> Result<(Database, String)> {
    let url = Postgres::shared()?.fresh_database()?;
    let name = url.rsplit('/').next().unwrap_or_default().to_owned();
    Ok((Database::connect(&url, Clock::default()).await?, name))
}

fn sql(database: &str, text: &str) -> Result<String> {
    Ok(Postgres::shared()?.sql_in("postgres", database, text)?)
}

#[tokio::test]
async fn an_older_schema_gets_the_steps_that_it_lacks_once() -> Result {
    let (database, name) = first_version().await?;
    sql(&name, "select brigade.push('q', '1')")?;
    let steps = with(SECOND);
    assert!(carry_out(&database.pool, &steps).await?);
    assert!(!carry_out(&database.pool, &steps).await?);
    assert_eq!(sql(&name, "select brigade.schema_version()")?, "2");
    assert_eq!(sql(&name, "select count(*) from brigade.second")?, "1");
    assert_eq!(sql(&name, "select payload from brigade.jobs")?, "1");
    let error = bring_up_to_date(&database.pool).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("version 2 is newer"), "{error}");
    Ok(())
}

#[tokio::test]
async fn of_programs_that_update_together_one_makes_the_change() -> Result {
    let (database, name) = first_version().await?;
    let (database, steps) = (Arc::new(database), Arc::new(with(SECOND)));
    let mut programs = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (database, steps) = (Arc::clone(&database), Arc::clone(&steps));
        programs.spawn(async move { carry_out(&database.pool, &steps).await.unwrap() });
    }
    let changed = programs.join_all().await;
    assert_eq!(changed.iter().filter(|changed| **changed).count(), 1);
    assert_eq!(sql(&name, "select count(*) from brigade.second")?, "1");
    Ok(())
}

#[tokio::test]
async fn a_step_that_fails_leaves_the_older_schema_as_it_was() -> Result {
    let (database, name) = first_version().await?;
    let steps = with("create table brigade.half_made (); select 1 / 0;");
    assert!(carry_out(&database.pool, &steps).await.is_err());
    assert_eq!(sql(&name, "select brigade.schema_version()")?, "1");
    let half = "select to_regclass('brigade.half_made') is null";
    assert_eq!(sql(&name, half)?, "t");
    assert!(!bring_up_to_date(&database.pool).await?);
    Ok(())
}

#[tokio::test]
async fn the_printed_text_updates_the_schema_that_it_was_printed_for_and_no_other() -> Result {
    let (database, name) = first_version().await?;
    let steps = with(SECOND);
    let text = text_of(&database.pool, &steps).await?;
    assert_eq!(sql(&name, "select brigade.schema_version()")?, "1");
    sql(&name, &text)?;
    assert_eq!(text_of(&database.pool, &steps).await?, "");
    let again = sql(&name, &text).unwrap_err().to_string();
    assert!(again.contains("another version by now"), "{again}");
    assert_eq!(sql(&name, "select count(*) from brigade.second")?, "1");
    Ok(())
}

#[test]
fn a_server_that_is_too_old_is_named_with_its_version() {
    assert!(must_be_new_enough(140_000).is_ok() && must_be_new_enough(180_001).is_ok());
    for (number, version) in [(139_999, "13,"), (90_624, "9.6,"), (100_023, "10,")] {
        let error = must_be_new_enough(number).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        let text = error.to_string();
        assert!(
            text.contains(version) && text.contains("update it"),
            "{text}"
        );
    }
}
