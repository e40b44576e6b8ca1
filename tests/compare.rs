//! How the compatibility matrix tells two runs of a client apart: `tests/compat/compare.rs`, alone.

#[path = "compat/compare.rs"]
mod compare;

use compare::{Excuse, Output, SECTIONS, Verdict, both_end, same_but_for_widths};

fn output(text: &str) -> Output {
    Output::parse(text, None)
}

fn verdict_of(section: &str, direct: &str, through: &str) -> Verdict {
    let verdicts = compare::compare(&output(direct), &output(through), &[]);
    verdicts.into_iter().find(|(name, _)| name == section).expect("it is listed").1
}

fn different(direct: &str, through: &str) -> Verdict {
    Verdict::Different { direct: direct.into(), through: through.into() }
}

#[test]
fn equal_sections_are_the_same() {
    assert_eq!(verdict_of("a", "== a\n1\n2\n== b\n", "== a\n1\n2\n== b\n"), Verdict::Same);
}

#[test]
fn a_difference_names_its_section_and_shows_the_first_lines_that_differ() {
    let (direct, through) = ("== a\n1\n== b\n1\n2\n", "== a\n1\n== b\n1\n3\n");
    assert_eq!(verdict_of("a", direct, through), Verdict::Same);
    assert_eq!(verdict_of("b", direct, through), different("2", "3"));
}

#[test]
fn a_result_that_is_cut_or_too_long_differs() {
    assert_eq!(verdict_of("a", "== a\n1\n2\n", "== a\n1\n"), different("2", "nothing more"));
    assert_eq!(verdict_of("a", "== a\n1\n", "== a\n1\n2\n"), different("nothing more", "2"));
}

#[test]
fn lines_may_differ_where_that_is_excused() {
    let verdict = |direct, through| {
        let excuses = [Excuse { section: "a", covers: |direct, _| direct != "8" }];
        let verdicts = compare::compare(&output(direct), &output(through), &excuses);
        verdicts.into_iter().find(|(name, _)| name == "a").unwrap().1
    };
    let excused = Verdict::Excused { direct: "1".into(), through: "2".into() };
    assert_eq!(verdict("== a\n1\n9\n", "== a\n2\n9\n"), excused);
    assert_eq!(verdict("== a\n1\n1\n", "== a\n2\n3\n"), excused);
    assert_eq!(verdict("== a\n1\n9\n", "== a\n1\n9\n"), Verdict::Same);
    assert_eq!(verdict("== a\n1\n8\n", "== a\n2\n9\n"), different("1", "2"));
    assert_eq!(verdict("== a\n1\n9\n", "== a\n2\n"), different("1", "2"));
    assert_eq!(verdict("== a\n1\n", "== a\nfailed: 2\n"), different("1", "failed: 2"));
    assert_eq!(verdict_of("a", "== a\n1\n", "== a\n2\n"), different("1", "2"));
}

#[test]
fn a_run_is_well_when_nothing_in_it_has_failed() {
    assert!(output("== a\n1\n").is_well());
    assert!(!output("== a\nfailed: x\n").is_well());
    assert!(!Output::parse("== a\n1\n", Some("killed")).is_well());
}

#[test]
fn an_excuse_covers_what_it_is_for_and_nothing_else() {
    let lost = "OperationalError(2013, 'Lost connection to MySQL server during query')";
    assert!(both_end(lost, "TLS/SSL error: decryption failed or bad record mac"));
    assert!(!both_end(lost, "| 1"));
    assert!(!both_end("ERROR 1105 (HY000): no", lost));
    let header = |width| format!("| Variable_name VARCHAR 29, Value VARCHAR {width}");
    assert!(same_but_for_widths(&header(541), &header(36)));
    assert!(!same_but_for_widths("1000000 bytes 5d1", "1000000 bytes 6d1"));
}

#[test]
fn a_section_that_is_not_printed_through_the_bridge_differs() {
    let verdict = verdict_of("b", "== a\n== b\n", "== a\n");
    assert_eq!(verdict, different("printed", "not printed"));
}

#[test]
fn another_end_differs_and_a_bad_one_direct_tells_nothing() {
    let ended = |error| Output::parse("== a\n", error);
    let verdict = |direct, through| {
        let verdicts = compare::compare(&ended(direct), &ended(through), &[]);
        verdicts.into_iter().find(|(name, _)| name == "end").unwrap().1
    };
    assert_eq!(verdict(None, None), Verdict::Same);
    assert_eq!(verdict(None, Some("status 1")), different("well", "failed: status 1"));
    assert_eq!(verdict(Some("status 1"), None), Verdict::FailsDirect("status 1".into()));
}

#[test]
fn what_fails_direct_is_told_apart_from_a_difference() {
    let verdict = verdict_of("a", "== a\n1\nfailed: no such function\n", "== a\n2\n");
    assert_eq!(verdict, Verdict::FailsDirect("no such function".into()));
    let verdict = verdict_of("a", "== a\n1\n", "== a\nfailed: no such function\n");
    assert_eq!(verdict, different("1", "failed: no such function"));
}

#[test]
fn unsupported_is_so_both_ways() {
    let unsupported = "== a\nunsupported: no such call\n";
    assert_eq!(verdict_of("a", unsupported, unsupported), Verdict::Unsupported);
    let supported = verdict_of("a", unsupported, "== a\n1\n");
    assert_eq!(supported, different("unsupported: no such call", "1"));
}

#[test]
fn ports_and_ids_are_masked_and_other_numbers_are_not() {
    let direct = "== a\nUnknown thread id: 17\nat 127.0.0.1:3306 and 127.0.0.1:\n";
    let through = "== a\nUnknown thread id: 4\nat 127.0.0.1:40000 and 127.0.0.1:\n";
    assert_eq!(verdict_of("a", direct, through), Verdict::Same);
    let of_openssl = |id: &str, code: &str| format!("== a\n\"{id}:error:{code}:SSL\"\n");
    let (direct, through) = (of_openssl("80D12A", "0A000119"), of_openssl("8011E6", "0A000119"));
    assert_eq!(verdict_of("a", &direct, &through), Verdict::Same);
    let other = different("\"N:error:0A000119:SSL\"", "\"N:error:0A000120:SSL\"");
    assert_eq!(verdict_of("a", &direct, &of_openssl("8011E6", "0A000120")), other);
    assert_eq!(verdict_of("a", "== a\nid 17\n", "== a\nid 18\n"), different("id 17", "id 18"));
}

#[test]
fn a_section_that_a_program_forgets_does_not_count() {
    let all: String = SECTIONS.iter().map(|name| format!("== {name}\n")).collect();
    assert_eq!(verdict_of("pool", &all, &all), Verdict::Same);
    let forgotten = all.replace("== pool\n", "");
    let verdict = verdict_of("pool", &forgotten, &all);
    assert_eq!(verdict, Verdict::FailsDirect("not printed".into()));
}
