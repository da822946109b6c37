//! The README says what the code does, where a test can tell.

use virga::policy::markdown;

#[test]
fn the_table_of_sysctls_is_the_codes() {
    let text = include_str!("../../README.md");
    let shown = text
        .split_once("held to it by a test -->\n")
        .and_then(|(_, rest)| rest.split_once("<!-- end of sysctls -->"))
        .map(|(table, _)| table)
        .expect("README.md has no table of sysctls");
    assert!(shown == markdown(), "README.md's table of sysctls should be:\n{}", markdown());
}
