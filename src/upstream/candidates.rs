//! The names that a gateway's name may stand for in DNS.

use hickory_resolver::proto::rr::Name;

/// What `name` may stand for, in the order to ask for them as glibc has it, and whether it is the name as it
/// is: itself, and it under each of the `domains`. With `ndots` dots it is more likely to be whole, and goes
/// first.
pub fn candidates(name: &Name, domains: &[Name], ndots: usize) -> Vec<(Name, bool)> {
    let mut whole = name.clone();
    whole.set_fqdn(true);
    if name.is_fqdn() {
        return vec![(whole, true)];
    }
    // One that gets too long by it is none.
    let under = |domain| name.clone().append_domain(domain).ok().map(|name| (name, false));
    let mut names: Vec<_> = domains.iter().filter_map(under).collect();
    let is_first = usize::from(name.num_labels()) > ndots || name.is_localhost();
    names.insert(if is_first { 0 } else { names.len() }, (whole, true));
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stands_for_what_it_does_for_glibc() {
        let domains = ["a.test", "b.test"].map(|domain| Name::from_utf8(domain).unwrap());
        for (name, ndots, expected) in [
            ("db", 1, "db.a.test. db.b.test. db."),
            ("db.corp", 1, "db.corp. db.corp.a.test. db.corp.b.test."),
            ("db.corp", 2, "db.corp.a.test. db.corp.b.test. db.corp."),
            ("db.", 1, "db."),
            ("localhost", 1, "localhost. localhost.a.test. localhost.b.test."),
        ] {
            let names = candidates(&Name::from_utf8(name).unwrap(), &domains, ndots);
            let text: Vec<_> = names.iter().map(|(name, _)| name.to_string()).collect();
            assert_eq!(text.join(" "), expected);
            let whole: Vec<_> = names.iter().filter(|(_, is_absolute)| *is_absolute).collect();
            assert_eq!(whole.len(), 1, "{names:?}");
        }
    }
}
