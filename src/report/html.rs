//! The frame of a page, and the parts that all pages are made of. No scripts, no external resources.

use std::fmt::Display;

use crate::error::shown;

/// What distinguishes our pages from other files; it is near the beginning.
pub(super) const MARK: &str = "<meta name=generator content=\"shadernet report\">";
const STYLE: &str = include_str!("style.css");

/// Text on one line as HTML, for use in elements and quoted attributes.
pub(super) fn escape(text: impl Display) -> String {
    let mut escaped = String::new();
    for c in shown(&text.to_string()).chars() {
        match c {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\'' => escaped += "&#39;",
            c => escaped.push(c),
        }
    }
    escaped
}

/// A whole page. `title` is text, `subtitle` and `body` are HTML.
pub(super) fn page(title: &str, subtitle: &str, body: &str) -> String {
    let (title, version) = (escape(title), env!("CARGO_PKG_VERSION"));
    format!(
        "<!doctype html>\n<html lang=en>\n<head>\n<meta charset=utf-8>\n{MARK}\n\
         <meta name=viewport content=\"width=device-width, initial-scale=1\">\n\
         <meta name=color-scheme content=\"light dark\">\n<title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n\
         <body>\n<header>\n<h1>{title}</h1>\n<p>{subtitle}</p>\n</header>\n<main>\n{body}</main>\n\
         <footer>Made by shadernet {version}.</footer>\n</body>\n</html>\n"
    )
}

/// A section with a heading. `title` is text, `body` HTML.
pub(super) fn section(title: &str, body: &str) -> String {
    format!("<section>\n<h2>{}</h2>\n{body}</section>\n", escape(title))
}

/// A paragraph of explanation. `text` is HTML.
pub(super) fn note(text: &str) -> String {
    format!("<p class=note>{text}</p>\n")
}

/// A prominent figure and its description; both are text.
pub(super) fn key_figure(value: &str, what: &str) -> String {
    format!("<div><b>{}</b><span>{}</span></div>\n", escape(value), escape(what))
}

/// A table that scrolls separately if it is too wide. Cells are HTML; all columns but the first `texts` are numbers.
pub(super) fn table(heads: &[&str], rows: &[Vec<String>], texts: usize) -> String {
    let class = |column: usize| if column < texts { "" } else { " class=n" };
    let cells = |kind: &str, cells: &mut dyn Iterator<Item = &str>| -> String {
        let cells =
            cells.enumerate().map(|(column, cell)| format!("<{kind}{}>{cell}</{kind}>", class(column)));
        format!("<tr>{}</tr>\n", cells.collect::<String>())
    };
    let body: String = rows.iter().map(|row| cells("td", &mut row.iter().map(String::as_str))).collect();
    let head = cells("th", &mut heads.iter().copied());
    format!("<div class=scroll><table>\n<thead>{head}</thead>\n<tbody>\n{body}</tbody></table></div>\n")
}

/// Charts side by side, space permitting.
pub(super) fn charts(charts: &[String]) -> String {
    let figures = charts.iter().map(|chart| format!("<figure class=chart>{chart}</figure>\n"));
    format!("<div class=charts>\n{}</div>\n", figures.collect::<String>())
}

/// A bar of this fraction of the available width.
pub(super) fn bar(share: f64, class: &str) -> String {
    format!("<i class=\"bar {class}\" style=\"--w:{:.1}%\"></i>", 100.0 * share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_become_markup() {
        assert_eq!(escape("<b a='\"'>&amp;"), "&lt;b a=&#39;&quot;&#39;&gt;&amp;amp;");
        assert_eq!(escape("\u{202e}gpj.exe\n"), r"\u202egpj.exe\n");
        let text = page("</title><script>", "", "");
        assert!(
            !text.contains("<script>") && text.contains("<h1>&lt;/title&gt;&lt;script&gt;</h1>"),
            "{text}"
        );
    }

    #[test]
    fn numbers_are_told_from_texts() {
        let text = table(&["a", "b"], &[vec!["x".into(), "1".into()]], 1);
        assert!(
            text.contains("<th>a</th><th class=n>b</th>") && text.contains("<td>x</td><td class=n>1</td>")
        );
    }
}
