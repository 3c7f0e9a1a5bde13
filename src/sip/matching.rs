//! Which line an incoming INVITE belongs to.
//!
//! Each line announces a Contact with a `line` parameter of its own, so the
//! request URI normally names it. Failing that, the user part of the request
//! URI, then of To, is compared with each line's user name and aliases, and
//! where it is none of these, with the further forms of the lines' numbers; a
//! leading `+` does not count. A user that several lines share is decided by
//! domain, then by the other header; what stays open matches nothing: better
//! 404 than the wrong restaurant.

use std::collections::HashMap;

use super::engine::Account;
use super::uri::UriParts;
use crate::core::access::contact_key::{ContactKey, TokenDigest};
use crate::core::ids::LineId;

/// The lines of an engine, with what `T` the engine keeps for each.
#[derive(Debug)]
pub struct LineTable<T> {
    key: ContactKey,
    lines: HashMap<LineId, Entry<T>>,
    by_token: HashMap<TokenDigest, LineId>,
    by_user: ByUser,
    /// Forms of numbers that nobody wrote as a line's own.
    by_form: ByUser,
}

#[derive(Debug)]
struct Entry<T> {
    token: TokenDigest,
    users: Vec<String>,
    forms: Vec<String>,
    hosts: Vec<String>,
    data: T,
}

impl<T> Default for LineTable<T> {
    fn default() -> Self {
        Self {
            key: ContactKey::random(),
            lines: HashMap::new(),
            by_token: HashMap::new(),
            by_user: ByUser::default(),
            by_form: ByUser::default(),
        }
    }
}

impl<T> LineTable<T> {
    /// Makes the tokens of lines that are added from now on with this key.
    pub fn set_key(&mut self, key: ContactKey) {
        self.key = key;
    }

    /// The value of a line's `line` parameter: the same over restarts, so that
    /// a registration that outlives the process still names the line.
    #[must_use]
    pub fn token(&self, line: &LineId) -> String {
        self.key.token(line)
    }

    /// Whether a text is the token of a line.
    #[must_use]
    pub fn is_token(&self, text: &str) -> bool {
        self.by_token.contains_key(&self.key.digest(text))
    }

    /// Adds a line, in place of one with the same id.
    pub fn insert(&mut self, account: &Account, data: T) {
        self.remove(&account.line);
        let token = self.key.digest(&self.key.token(&account.line));
        let users = distinct(std::iter::once(&account.username).chain(&account.aliases));
        let forms = distinct(account.number_forms.iter());
        self.by_user.add(&users, &account.line);
        self.by_form.add(&forms, &account.line);
        let hosts = std::iter::once(account.domain.as_str())
            .chain(account.server.as_deref())
            .map(|host| UriParts::parse(&format!("sip:{host}")).host)
            .collect();
        self.by_token.insert(token, account.line.clone());
        self.lines.insert(
            account.line.clone(),
            Entry {
                token,
                users,
                forms,
                hosts,
                data,
            },
        );
    }

    /// Removes a line and returns what was kept for it.
    pub fn remove(&mut self, line: &LineId) -> Option<T> {
        let entry = self.lines.remove(line)?;
        self.by_token.remove(&entry.token);
        self.by_user.take(&entry.users, line);
        self.by_form.take(&entry.forms, line);
        Some(entry.data)
    }

    /// What is kept for a line.
    #[must_use]
    pub fn data(&self, line: &LineId) -> Option<&T> {
        self.lines.get(line).map(|entry| &entry.data)
    }

    /// All lines with what is kept for them.
    pub fn iter(&self) -> impl Iterator<Item = (&LineId, &T)> {
        self.lines.iter().map(|(line, entry)| (line, &entry.data))
    }

    /// The line that an INVITE with this request URI and To belongs to.
    #[must_use]
    pub fn find(&self, request_uri: &UriParts, to: &UriParts) -> Option<&LineId> {
        let by_token = request_uri
            .line
            .as_ref()
            .and_then(|token| self.by_token.get(&self.key.digest(token)));
        by_token
            .or_else(|| self.find_by_user(request_uri, to))
            .or_else(|| self.find_by_user(to, request_uri))
    }

    /// Lines that have the user of `first`; where several do, `first`'s
    /// domain, then the user and domain of `other` decide.
    fn find_by_user(&self, first: &UriParts, other: &UriParts) -> Option<&LineId> {
        let sharing = self.sharing(first)?;
        if let Some(only) = single(sharing.iter()) {
            return Some(only);
        }
        let in_domain: Vec<&LineId> = sharing
            .iter()
            .filter(|line| self.has_host(line, &first.host))
            .collect();
        let candidates = if in_domain.is_empty() {
            sharing.iter().collect()
        } else {
            in_domain
        };
        single(candidates.iter().copied())
            .or_else(|| {
                let others = self.sharing(other)?;
                single(
                    candidates
                        .iter()
                        .copied()
                        .filter(|line| others.contains(line)),
                )
            })
            .or_else(|| {
                single(
                    candidates
                        .iter()
                        .copied()
                        .filter(|line| self.has_host(line, &other.host)),
                )
            })
    }

    fn sharing(&self, uri: &UriParts) -> Option<&Vec<LineId>> {
        let user = comparable(&uri.user);
        self.by_user
            .0
            .get(user)
            .or_else(|| self.by_form.0.get(user))
    }

    fn has_host(&self, line: &LineId, host: &str) -> bool {
        self.lines
            .get(line)
            .is_some_and(|entry| entry.hosts.iter().any(|own| own == host))
    }
}

/// Lines by a user part of theirs.
#[derive(Debug, Default)]
struct ByUser(HashMap<String, Vec<LineId>>);

impl ByUser {
    fn add(&mut self, users: &[String], line: &LineId) {
        for user in users {
            self.0.entry(user.clone()).or_default().push(line.clone());
        }
    }

    fn take(&mut self, users: &[String], line: &LineId) {
        for user in users {
            if let Some(sharing) = self.0.get_mut(user) {
                sharing.retain(|other| other != line);
                if sharing.is_empty() {
                    self.0.remove(user);
                }
            }
        }
    }
}

/// In the form in which they are compared, each once.
fn distinct<'a>(users: impl Iterator<Item = &'a String>) -> Vec<String> {
    let users = users.map(|user| comparable(user).to_owned());
    let mut users: Vec<String> = users.filter(|user| !user.is_empty()).collect();
    users.sort();
    users.dedup();
    users
}

/// Trunks disagree on the leading `+` of one and the same number.
fn comparable(user: &str) -> &str {
    match user.strip_prefix('+') {
        Some(digits) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => digits,
        _ => user,
    }
}

fn single<'a>(mut lines: impl Iterator<Item = &'a LineId>) -> Option<&'a LineId> {
    let first = lines.next()?;
    lines.next().is_none().then_some(first)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::engine::Transport;
    use super::*;

    fn account(line: &str, domain: &str, username: &str, aliases: &[&str]) -> Account {
        Account {
            line: LineId::new(line),
            domain: domain.into(),
            server: None,
            contact: None,
            transport: Transport::Udp,
            username: username.into(),
            password: None,
            aliases: aliases.iter().map(|alias| (*alias).to_owned()).collect(),
            number_forms: Vec::new(),
            register: true,
            expires: Duration::from_secs(300),
            allow_from: Vec::new(),
        }
    }

    fn table() -> LineTable<u32> {
        let mut table = LineTable::default();
        table.insert(&account("a", "one.example", "alice", &["+33100"]), 1);
        table.insert(&account("b", "one.example", "shared", &["33200"]), 2);
        table.insert(&account("c", "two.example", "shared", &["+33300"]), 3);
        table
    }

    fn find(table: &LineTable<u32>, request_uri: &str, to: &str) -> Option<String> {
        table
            .find(&UriParts::parse(request_uri), &UriParts::parse(to))
            .map(|line| line.as_str().to_owned())
    }

    #[test]
    fn the_line_parameter_names_the_line_whatever_the_trunk_writes_into_to() {
        let table = table();
        let uri = format!(
            "sip:shared@10.0.0.1:5060;line={}",
            table.token(&LineId::new("c"))
        );
        assert_eq!(
            find(&table, &uri, "<sip:alice@one.example>").as_deref(),
            Some("c")
        );
    }

    #[test]
    fn only_the_token_of_a_line_that_is_there_is_one() {
        let mut table = table();
        let (a, gone) = (LineId::new("a"), LineId::new("b"));
        let tokens = [table.token(&a), table.token(&gone)];
        table.remove(&gone);
        assert!(table.is_token(&tokens[0]) && !table.is_token(&tokens[1]));
        assert!(!table.is_token("") && !table.is_token(&tokens[0][..31]));
        // Another key, other tokens.
        assert!(!super::tests::table().is_token(&tokens[0]));
    }

    #[test]
    fn user_of_request_uri_then_of_to() {
        let table = table();
        assert_eq!(
            find(&table, "sip:alice@10.0.0.1", "<sip:x@y>").as_deref(),
            Some("a")
        );
        assert_eq!(
            find(&table, "sip:33100@10.0.0.1", "<sip:x@y>").as_deref(),
            Some("a")
        );
        assert_eq!(
            find(&table, "sip:+33200@10.0.0.1", "<sip:x@y>").as_deref(),
            Some("b")
        );
        assert_eq!(
            find(&table, "sip:sbc@10.0.0.1", "<sip:+33300@y>").as_deref(),
            Some("c")
        );
        assert_eq!(find(&table, "sip:unknown@h", "<sip:unknown@h>"), None);
        assert_eq!(find(&table, "sip:Alice@h", "<sip:unknown@h>"), None);
        assert_eq!(find(&table, "sip:h", "sip:h"), None);
    }

    #[test]
    fn a_shared_user_is_decided_by_domain_or_to_or_not_at_all() {
        let table = table();
        assert_eq!(
            find(&table, "sip:shared@two.example", "<sip:x@y>").as_deref(),
            Some("c")
        );
        assert_eq!(
            find(&table, "sip:shared@10.0.0.1", "<sip:33200@y>").as_deref(),
            Some("b")
        );
        assert_eq!(
            find(&table, "sip:shared@10.0.0.1", "<sip:shared@two.example>").as_deref(),
            Some("c")
        );
        assert_eq!(
            find(&table, "sip:shared@10.0.0.1", "<sip:shared@10.0.0.1>"),
            None
        );
    }

    #[test]
    fn a_removed_line_is_found_no_more() {
        let mut table = table();
        assert_eq!(table.remove(&LineId::new("b")), Some(2));
        assert_eq!(find(&table, "sip:33200@h", "<sip:x@y>"), None);
        // What was ambiguous is clear now.
        assert_eq!(
            find(&table, "sip:shared@h", "<sip:x@y>").as_deref(),
            Some("c")
        );
        assert_eq!(table.remove(&LineId::new("b")), None);
    }

    #[test]
    fn other_forms_of_a_number_count_where_no_line_has_them_as_its_own() {
        let mut table = LineTable::default();
        let with_forms = |line, username, forms: &[&str]| Account {
            number_forms: forms.iter().map(|form| (*form).to_owned()).collect(),
            ..account(line, "one.example", username, &[])
        };
        let forms = ["+33100", "0033100", "0100"];
        table.insert(&with_forms("a", "alice", &forms), 1);
        for user in ["33100", "+33100", "0033100", "0100"] {
            let uri = format!("sip:{user}@h");
            assert_eq!(find(&table, &uri, "<sip:x@y>").as_deref(), Some("a"));
            let to = format!("<sip:{user}@y>");
            assert_eq!(find(&table, "sip:sbc@h", &to).as_deref(), Some("a"));
        }
        // Another country's line whose own user name looks the same.
        table.insert(&with_forms("b", "0100", &[]), 2);
        assert_eq!(
            find(&table, "sip:0100@h", "<sip:x@y>").as_deref(),
            Some("b")
        );
        table.remove(&LineId::new("a"));
        assert_eq!(find(&table, "sip:33100@h", "<sip:x@y>"), None);
        assert!(table.by_form.0.is_empty());
    }

    #[test]
    fn an_unknown_token_falls_back_to_the_user() {
        let table = table();
        assert_eq!(
            find(&table, "sip:alice@h;line=0000", "<sip:x@y>").as_deref(),
            Some("a")
        );
    }
}
