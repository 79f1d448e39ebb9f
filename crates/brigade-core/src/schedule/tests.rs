use std::time::Duration;

use brigade_testkit::random::Random;
use jiff::Timestamp;

use super::*;

fn plan(expression: &str, zone: &str) -> SchedulePlan {
    let recurrence = Recurrence::Cron {
        expression: expression.to_owned(),
        zone: zone.to_owned(),
    };
    SchedulePlan {
        recurrence,
        missed: Missed::default(),
        grace: GRACE,
        group: None,
        paused: false,
    }
}

fn every(interval: Duration, missed: Missed) -> SchedulePlan {
    SchedulePlan {
        recurrence: Recurrence::Every(interval),
        missed,
        grace: GRACE,
        group: None,
        paused: false,
    }
}

fn millis(text: &str) -> i64 {
    text.parse::<Timestamp>()
        .expect("a timestamp")
        .as_millisecond()
}

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn a_bad_expression_is_told_with_its_place() {
    let cases = [
        ("", "it has 0 fields"),
        ("*", "it has 1 field;"),
        ("* * * *", "it has 4 fields"),
        ("0 0 0 1 1 * 2030", "it has 7 fields"),
        ("0 25 * * *", r#"its field 2, "25", is no hour: 0 to 23"#),
        ("60 0 * * *", r#"its field 1, "60", is no minute"#),
        ("60 0 0 * * *", r#"its field 1, "60", is no second"#),
        ("0 0 0 * * * ", ""),
        ("0 0 32 * *", r#"its field 3, "32", is no day of the month"#),
        ("0 0 1 13 *", r#"its field 4, "13", is no month"#),
        ("0 0 1 1 8", r#"its field 5, "8", is no day of the week"#),
        ("0 MON * * *", r#"its field 2, "MON", is no hour"#),
        ("0 0 1 MON *", r#"its field 4, "MON", is no month"#),
        ("0 0 * * JAN", r#"its field 5, "JAN", is no day"#),
        ("*/0 * * * *", r#"its field 1, "*/0", is no minute"#),
        ("5-1 * * * *", r#"its field 1, "5-1", is no minute"#),
        ("a b c d e", r#"its field 1, "a", is no minute"#),
        ("\u{1F980} * * * *", "is no minute"),
        ("@fortnightly", "there are @hourly"),
        ("@reboot", "@reboot has no time"),
        ("@every 5m", "Schedule::every"),
        (
            "0 0 1,32 * *",
            r#"its field 3, "1,32", is no day of the month: "32" is none, there are 1 to 31"#,
        ),
        (
            "0 1-3,22-25 * * *",
            r#"is no hour: "22-25" is none, there are 0 to 23"#,
        ),
        ("@hourly @daily", "there are @hourly"),
        ("0 0 30 2 *", "no date ever matches"),
        ("0 0 31 4,6,9,11 *", "no date ever matches"),
    ];
    for (expression, why) in cases {
        match plan(expression, "UTC").after(0) {
            Ok(_) => assert_eq!(why, "", "{expression}"),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::BadOption);
                assert!(
                    !why.is_empty() && error.to_string().contains(why),
                    "{expression}: {error}"
                );
            }
        }
    }
    let long = "0,".repeat(300);
    assert!(
        plan(&long, "UTC")
            .after(0)
            .is_err_and(|e| e.to_string().contains("500 are allowed"))
    );
}

#[test]
fn a_bad_zone_or_interval_is_told() {
    for zone in [
        "",
        "Europe/Atlantis",
        "../../etc/passwd",
        "/etc/localtime",
        "\0",
        "Europe Berlin",
        &"x".repeat(1 << 20),
    ] {
        let error = plan("0 0 * * *", zone).after(0).expect_err("no zone");
        assert!(
            error.kind() == ErrorKind::BadOption && error.to_string().len() < 300,
            "{error}"
        );
    }
    assert!(
        every(Duration::from_micros(100_500), Missed::Once)
            .after(0)
            .is_err()
    );
    for (interval, good) in [
        (99, false),
        (100, true),
        (316_224_000_000, true),
        (316_224_000_001, false),
    ] {
        assert_eq!(
            every(Duration::from_millis(interval), Missed::Once)
                .after(0)
                .is_ok(),
            good,
            "{interval}"
        );
    }
}

#[test]
fn what_cron_knows_is_understood() {
    let from = millis("2026-11-21T12:34:56Z"); // a Saturday
    let cases = [
        ("@hourly", "2026-11-21T13:00:00Z"),
        ("@daily", "2026-11-22T00:00:00Z"),
        ("@midnight", "2026-11-22T00:00:00Z"),
        ("@Midnight", "2026-11-22T00:00:00Z"),
        ("@annually", "2027-01-01T00:00:00Z"),
        // A field that begins with * is not given, for Vixie cron: then both have to match.
        ("0 0 */2 * mon", "2026-11-23T00:00:00Z"),
        ("0 0 */10 * wed", "2027-03-31T00:00:00Z"),
        ("0 0 13 * */5", "2026-12-13T00:00:00Z"),
        ("0 0 24 * mon", "2026-11-23T00:00:00Z"),
        ("0 0 0 */10 * wed", "2027-03-31T00:00:00Z"),
        ("@weekly", "2026-11-22T00:00:00Z"),
        ("@monthly", "2026-12-01T00:00:00Z"),
        ("@Yearly", "2027-01-01T00:00:00Z"),
        ("*/20 * * * * *", "2026-11-21T12:35:00Z"),
        ("0 9-17/4 * * mon-fri", "2026-11-23T09:00:00Z"),
        ("0 0 29 feb *", "2028-02-29T00:00:00Z"),
        ("0 0 l * *", "2026-11-30T00:00:00Z"),
        ("0 0 15W * *", "2026-12-15T00:00:00Z"),
        ("0 0 * * FRI#2", "2026-12-11T00:00:00Z"),
        ("0 0 * * FRIL", "2026-11-27T00:00:00Z"),
        ("0 0 13 * FRI", "2026-11-27T00:00:00Z"),
        ("0 0 13 * +FRI", "2027-08-13T00:00:00Z"),
        ("0 0 * * 7", "2026-11-22T00:00:00Z"),
    ];
    for (expression, next) in cases {
        let found = plan(expression, "UTC").after(from).map(|tick| {
            Timestamp::from_millisecond(tick)
                .expect("in range")
                .to_string()
        });
        assert_eq!(
            found.as_deref().map_err(ToString::to_string),
            Ok(next),
            "{expression}"
        );
    }
}

#[test]
fn zones_are_found_without_a_database_of_the_system() {
    // The fallback is the same data: an old name that some systems leave out, and one that all
    // have.
    for zone in ["US/Eastern", "America/New_York"] {
        let bundled = jiff::tz::TimeZoneDatabase::bundled()
            .get(zone)
            .expect("in this program");
        assert!(bundled.following(Timestamp::UNIX_EPOCH).next().is_some());
        assert!(plan("0 0 * * *", zone).after(0).is_ok());
    }
}

#[test]
fn intervals_are_multiples_since_1970() {
    let plan = every(Duration::from_millis(1_500), Missed::All);
    for (time, next) in [
        (-5, 1_500),
        (0, 1_500),
        (1, 1_500),
        (1_499, 1_500),
        (1_500, 3_000),
    ] {
        assert_eq!(plan.after(time).ok(), Some(next), "{time}");
    }
}

#[test]
fn missed_ticks_become_what_the_policy_says() {
    let minute = 60_000;
    let cases = [
        // One tick, in time.
        (Missed::Skip, 10, 10 * minute, vec![10]),
        // Late by exactly the grace, and by more.
        (Missed::Skip, 10, 11 * minute, vec![10, 11]),
        (Missed::Skip, 10, 11 * minute + 1, vec![11]),
        (Missed::Once, 10, 11 * minute + 1, vec![11]),
        (Missed::All, 10, 11 * minute + 1, vec![10, 11]),
        // Five are late and one is not.
        (Missed::Skip, 10, 15 * minute + 30_000, vec![15]),
        (Missed::Once, 10, 15 * minute + 30_000, vec![15]),
        (
            Missed::All,
            10,
            15 * minute + 30_000,
            vec![10, 11, 12, 13, 14, 15],
        ),
    ];
    for (missed, tick, now, fired) in cases {
        let due = every(MINUTE, missed)
            .due(tick * minute, now)
            .expect("a good plan");
        assert_eq!(
            due.fire
                .iter()
                .map(|tick| tick / minute)
                .collect::<Vec<_>>(),
            fired,
            "{missed:?} {now}"
        );
        assert!(due.next > now && due.next % minute == 0);
    }
}

#[test]
fn a_day_of_missed_hours_is_skipped_made_up_for_once_or_whole() {
    let hour = 3_600_000;
    let now = 24 * hour + hour / 2;
    let due = |missed| {
        every(Duration::from_secs(3600), missed)
            .due(20 * hour, now)
            .expect("a good plan")
    };
    assert_eq!(due(Missed::Skip).fire, [0; 0]);
    assert_eq!(due(Missed::Once).fire, [24 * hour]);
    assert_eq!(
        due(Missed::All).fire,
        [20, 21, 22, 23, 24].map(|tick| tick * hour)
    );
    for missed in [Missed::Skip, Missed::Once, Missed::All] {
        let due = due(missed);
        assert_eq!(
            (due.next, due.late, due.left_out),
            (25 * hour, Some((20 * hour, 24 * hour)), None)
        );
    }
}

#[test]
fn a_year_of_missed_seconds_is_bounded_and_told() {
    let (second, year) = (1_000, 365 * 86_400_000);
    for recurrence in [
        every(Duration::from_secs(1), Missed::All).recurrence,
        plan("* * * * * *", "Europe/Berlin").recurrence,
    ] {
        let plan = |missed| SchedulePlan {
            recurrence: recurrence.clone(),
            missed,
            grace: Duration::from_secs(5),
            group: None,
            paused: false,
        };
        let due = plan(Missed::All).due(second, year).expect("a good plan");
        assert_eq!(
            (due.fire.len(), due.fire[0], due.fire[999]),
            (1_000, second, 1_000 * second)
        );
        assert_eq!(due.left_out, Some((1_001 * second, year - 6 * second)));
        // There was no room for those in time: they come next, and are not late.
        assert_eq!(due.next, year - 5 * second);
        let due = plan(Missed::All).due(due.next, year).expect("a good plan");
        assert_eq!(
            (due.fire.len(), due.next, due.late),
            (6, year + second, None)
        );
        assert_eq!(
            plan(Missed::Once)
                .due(second, year)
                .map(|due| due.fire.len())
                .ok(),
            Some(6)
        );
    }
}

#[test]
fn a_clock_that_went_back_fires_nothing() {
    let due = plan("0 3 * * *", "UTC")
        .due(
            millis("2026-11-21T03:00:00Z"),
            millis("2026-11-20T03:00:01Z"),
        )
        .expect("a good plan");
    assert_eq!(
        due,
        DueTick {
            next: millis("2026-11-21T03:00:00Z"),
            ..DueTick::default()
        }
    );
}

const ZONES: [&str; 10] = [
    "UTC",
    "America/New_York",
    "Europe/Berlin",
    "Australia/Sydney",
    "Australia/Lord_Howe",
    "America/Santiago",
    "Pacific/Apia",
    "Pacific/Kwajalein",
    "Antarctica/Troll",
    "Antarctica/Casey",
];

/// An expression of every shape, seldom one without a tick.
fn expression(random: &mut Random) -> String {
    let field = |random: &mut Random, min: u64, max: u64| match random.within(0..6) {
        0 | 1 => "*".to_owned(),
        2 => format!("*/{}", random.within(1..max / 2)),
        3 => {
            let low = random.within(min..max);
            format!("{low}-{}", random.within(low..max + 1))
        }
        4 => format!(
            "{},{}",
            random.within(min..max + 1),
            random.within(min..max + 1)
        ),
        _ => random.within(min..max + 1).to_string(),
    };
    let (second, minute, hour) = (
        random.within(0..60),
        field(random, 0, 59),
        field(random, 0, 23),
    );
    let day = random
        .pick(&["*", "*", "*", "L", "15W", "1-7", "*/2"])
        .copied()
        .unwrap_or("*");
    let week = random
        .pick(&["*", "*", "*", "MON-FRI", "SUN#1", "5L"])
        .copied()
        .unwrap_or("*");
    if random.within(0..3) == 0 {
        format!("{second} {minute} {hour} {day} * {week}")
    } else {
        format!("{minute} {hour} {day} * {week}")
    }
}

/// Around the changes of summer time and the lost days, and anywhere.
fn beginning(random: &mut Random) -> i64 {
    let changes = [
        "2026-03-08T00:00:00Z",
        "2026-11-01T00:00:00Z",
        "2026-03-29T00:00:00Z",
        "2026-10-25T00:00:00Z",
        "2026-04-04T00:00:00Z",
        "2026-10-03T00:00:00Z",
        "2011-12-29T00:00:00Z",
        "1993-08-20T00:00:00Z",
        "2023-03-09T00:00:00Z",
    ];
    let from = random.pick(&changes).map_or(0, |text| millis(text));
    let day = random.within(0..2 * 86_400_000).cast_signed();
    if random.within(0..4) == 0 {
        millis("1990-01-01T00:00:00Z") + day * 10_000
    } else {
        from + day
    }
}

#[test]
fn ticks_strictly_increase_and_are_the_same_from_wherever_one_looks() {
    let mut random = Random::from_env();
    for _ in 0..brigade_testkit::count(300, 20_000) {
        let (expression, zone) = (
            expression(&mut random),
            random.pick(&ZONES).copied().unwrap_or("UTC"),
        );
        let ticks = plan(&expression, zone)
            .ticks()
            .unwrap_or_else(|e| panic!("{expression}: {e}"));
        let mut tick = beginning(&mut random);
        for _ in 0..20 {
            let next = ticks
                .after(tick)
                .unwrap_or_else(|e| panic!("{expression} {zone} after {tick}: {e}"));
            assert!(next > tick, "{expression} {zone} after {tick}: {next}");
            let between = tick
                + random
                    .within(0..(next - tick).cast_unsigned())
                    .cast_signed();
            for from in [between, next - 1, tick] {
                assert_eq!(
                    ticks.after(from).ok(),
                    Some(next),
                    "{expression} {zone} after {tick} and {from}"
                );
            }
            tick = next;
        }
    }
}

#[test]
fn every_tick_is_fired_once_however_time_goes_on() {
    let mut random = Random::from_env();
    for _ in 0..brigade_testkit::count(60, 1_500) {
        let (expression, zone) = (
            expression(&mut random),
            random.pick(&ZONES).copied().unwrap_or("UTC"),
        );
        let grace = Duration::from_secs(random.within(0..7_200));
        let plan = SchedulePlan {
            missed: Missed::All,
            grace,
            ..plan(&expression, zone)
        };
        let mut now = beginning(&mut random);
        let first = plan
            .after(now)
            .unwrap_or_else(|e| panic!("{expression}: {e}"));
        let (mut next, mut fired) = (first, Vec::new());
        for _ in 0..30 {
            // Mostly forwards; no looking twice and no clock that is set back fires anything again.
            now += random.within(0..40 * 60_000).cast_signed()
                - if random.within(0..5) == 0 {
                    3_600_000
                } else {
                    0
                };
            let due = plan
                .due(next, now)
                .unwrap_or_else(|e| panic!("{expression}: {e}"));
            assert!(
                due.next > now || due.fire.is_empty(),
                "{expression} {zone}: all that is due is fired"
            );
            fired.extend(due.fire);
            next = due.next;
        }
        let mut expected = vec![first];
        expected.extend((1..fired.len() + 1).scan(first, |tick, _| {
            *tick = plan.after(*tick).ok()?;
            Some(*tick)
        }));
        assert_eq!(expected.pop(), Some(next), "{expression} {zone}");
        assert_eq!(fired, expected, "{expression} {zone}");
    }
}

#[test]
fn moments_of_any_size_are_rfc_3339() {
    for (millis, text) in [
        (0, "1970-01-01T00:00:00.000Z"),
        (253_402_207_199_999, "9999-12-30T21:59:59.999Z"),
        (253_402_300_800_000, "9999-12-30T22:00:00.000Z"),
        (i64::MAX, "9999-12-30T22:00:00.000Z"),
        (-62_167_219_200_001, "0000-01-01T00:00:00.000Z"),
        (i64::MIN, "0000-01-01T00:00:00.000Z"),
    ] {
        assert_eq!(rfc3339::text(time_of(millis)), text, "{millis}");
    }
}
