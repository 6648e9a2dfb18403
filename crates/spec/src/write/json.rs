use crate::tree::{Data, Table};

/// Keys sorted, no blanks: equal apps give equal bytes.
pub(crate) fn json(table: &Table) -> String {
    let mut out = String::new();
    write_table(&mut out, table);
    out
}

fn write_table(out: &mut String, table: &Table) {
    out.push('{');
    for (index, (key, entry)) in table.0.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        write_text(out, key);
        out.push(':');
        write_data(out, &entry.node.data);
    }
    out.push('}');
}

fn write_data(out: &mut String, data: &Data) {
    match data {
        Data::Text(text) => write_text(out, text),
        Data::Integer(value) => out.push_str(&value.to_string()),
        // An integer where it is one.
        Data::Float(text) => out.push_str(text.strip_suffix(".0").unwrap_or(text)),
        Data::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Data::Date => unreachable!("an app holds no dates"),
        Data::List(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_data(out, &item.data);
            }
            out.push(']');
        }
        Data::Table(table) => write_table(out, table),
    }
}

/// RFC 8259: quotes, backslashes and control characters are escaped, everything else stands as it is.
fn write_text(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_ascii_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
}
