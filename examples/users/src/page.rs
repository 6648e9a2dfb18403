//! Which part of the list a client asks for.

/// Users on a page that names no other number.
const LIMIT: u16 = 100;
const MAX_LIMIT: u16 = 500;

/// `?after=ID&limit=N`. Pages go by the id of the last user, not by a count: a page is as cheap at the end as at the
/// beginning, and nobody is skipped or shown twice while others are added or removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Page {
    /// Only users with a higher id.
    pub(crate) after: i64,
    /// 1 to 500.
    pub(crate) limit: u16,
}

impl Page {
    /// # Errors
    /// What is wrong, for the client. An unknown name is wrong too: a misspelt `limit` must not be ignored.
    pub(crate) fn parse(pairs: &[(String, String)]) -> Result<Self, String> {
        let (mut after, mut limit) = (None, None);
        for (name, value) in pairs {
            let is_new = match name.as_str() {
                "after" => after.replace(whole(value).ok_or("`after` is the id of a user: a whole number")?).is_none(),
                "limit" => {
                    let number = whole(value).filter(|n| (1..=MAX_LIMIT).contains(n));
                    let number = number.ok_or_else(|| format!("`limit` is a whole number from 1 to {MAX_LIMIT}"))?;
                    limit.replace(number).is_none()
                }
                _ => return Err(format!("there is no parameter {name:?}; there are `after` and `limit`")),
            };
            if !is_new {
                return Err(format!("`{name}` is given twice"));
            }
        }
        // Ids may be negative where somebody inserted them so.
        Ok(Self { after: after.unwrap_or(i64::MIN), limit: limit.unwrap_or(LIMIT) })
    }

    /// The address of the page after this one.
    pub(crate) fn next(self, last: i64) -> String {
        format!("/users?after={last}&limit={}", self.limit)
    }
}

fn whole<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<Page, String> {
        let pairs: Vec<_> = pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        Page::parse(&pairs)
    }

    #[test]
    fn everything_can_be_left_out() {
        let check = |pairs: &[(&str, &str)], after, limit| assert_eq!(parse(pairs), Ok(Page { after, limit }));
        check(&[], i64::MIN, 100);
        check(&[("limit", "1")], i64::MIN, 1);
        check(&[("limit", "500"), ("after", "-7")], -7, 500);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |pairs: &[(&str, &str)], what: &str| {
            let error = parse(pairs).unwrap_err();
            assert!(error.contains(what), "{error}");
        };
        for limit in ["0", "501", "-1", "ten", "", "1.5", "99999"] {
            check(&[("limit", limit)], "`limit`");
        }
        for after in ["x", "", "9223372036854775808"] {
            check(&[("after", after)], "`after`");
        }
        check(&[("page", "2")], "\"page\"");
        check(&[("after", "1"), ("after", "2")], "twice");
    }

    #[test]
    fn the_next_page_is_as_long() {
        assert_eq!(Page { after: 0, limit: 7 }.next(9), "/users?after=9&limit=7");
    }
}
