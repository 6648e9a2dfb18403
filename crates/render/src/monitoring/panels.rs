//! Panels of Grafana: a query, a unit and a legend, as its JSON wants them.

use serde_json::{Value, json};

/// How values read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Bytes,
    Cores,
    Count,
    /// From now.
    DateFromNow,
    PerSecond,
    RequestsPerSecond,
    /// 0 to 1.
    Share,
    Seconds,
}

impl Unit {
    /// Grafana's name of it.
    fn id(self) -> &'static str {
        match self {
            Self::Bytes => "bytes",
            Self::Cores => "suffix: cores",
            Self::Count => "short",
            Self::DateFromNow => "dateTimeFromNow",
            Self::PerSecond => "cps",
            Self::RequestsPerSecond => "reqps",
            Self::Share => "percentunit",
            Self::Seconds => "s",
        }
    }
}

/// How a panel looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    Lines,
    /// One upon the other: parts of a whole.
    Stack,
    /// The newest value, large.
    Number,
    /// The newest values, each with its legend.
    Bars,
}

/// One picture.
#[derive(Debug, Clone)]
pub(super) struct Panel {
    pub(super) title: &'static str,
    pub(super) says: &'static str,
    pub(super) unit: Unit,
    pub(super) look: Look,
    /// Query, and what a series of it is called.
    pub(super) queries: Vec<(String, &'static str)>,
    /// Of [`COLUMNS`].
    pub(super) width: u32,
}

/// Of Grafana's grid.
pub(super) const COLUMNS: u32 = 24;

impl Panel {
    /// Lines, a third of the width.
    pub(super) fn new(title: &'static str, unit: Unit) -> Self {
        Self { title, says: "", unit, look: Look::Lines, queries: Vec::new(), width: COLUMNS / 3 }
    }

    pub(super) fn says(self, says: &'static str) -> Self {
        Self { says, ..self }
    }

    /// `legend`: what a series of it is called.
    pub(super) fn query(mut self, query: impl Into<String>, legend: &'static str) -> Self {
        self.queries.push((query.into(), legend));
        self
    }

    pub(super) fn look(self, look: Look) -> Self {
        Self { look, ..self }
    }

    pub(super) fn half(self) -> Self {
        Self { width: COLUMNS / 2, ..self }
    }

    /// One number, a sixth of the width.
    pub(super) fn number(title: &'static str, unit: Unit, query: impl Into<String>) -> Self {
        Self { look: Look::Number, width: COLUMNS / 6, ..Self::new(title, unit).query(query, "") }
    }

    fn height(&self) -> u32 {
        match self.look {
            Look::Lines | Look::Stack | Look::Bars => 8,
            Look::Number => 4,
        }
    }

    fn json(&self, id: usize, (x, y): (u32, u32)) -> Value {
        let instant = matches!(self.look, Look::Number | Look::Bars);
        let target = |(at, (query, legend)): (usize, &(String, &str))| {
            let name = char::from(b'A' + u8::try_from(at).unwrap_or_default());
            json!({
                "refId": name.to_string(),
                "datasource": datasource(),
                "expr": query,
                "legendFormat": legend,
                "instant": instant,
                "range": !instant,
                "editorMode": "code",
            })
        };
        json!({
            "id": id,
            "type": match self.look {
                Look::Lines | Look::Stack => "timeseries",
                Look::Number => "stat",
                Look::Bars => "bargauge",
            },
            "title": self.title,
            "description": self.says,
            "datasource": datasource(),
            "gridPos": { "h": self.height(), "w": self.width, "x": x, "y": y },
            "targets": self.queries.iter().enumerate().map(target).collect::<Vec<_>>(),
            "fieldConfig": { "defaults": self.defaults(), "overrides": [] },
            "options": self.options(),
        })
    }

    fn defaults(&self) -> Value {
        let mut defaults = json!({ "unit": self.unit.id(), "color": { "mode": "palette-classic" } });
        match self.unit {
            Unit::Share => (defaults["min"], defaults["decimals"]) = (0.into(), 2.into()),
            Unit::DateFromNow => {}
            Unit::Bytes | Unit::Cores | Unit::Count | Unit::PerSecond | Unit::RequestsPerSecond | Unit::Seconds => {
                defaults["min"] = 0.into();
            }
        }
        match self.look {
            Look::Lines => {
                defaults["custom"] =
                    json!({ "drawStyle": "line", "lineWidth": 1, "fillOpacity": 8, "showPoints": "never" });
            }
            Look::Stack => {
                defaults["custom"] = json!({
                    "drawStyle": "line", "lineWidth": 1, "fillOpacity": 40, "showPoints": "never",
                    "stacking": { "mode": "normal", "group": "A" },
                });
            }
            Look::Number | Look::Bars => {}
        }
        defaults
    }

    fn options(&self) -> Value {
        let newest = json!({ "calcs": ["lastNotNull"], "fields": "", "values": false });
        match self.look {
            Look::Lines | Look::Stack => json!({
                "legend": {
                    "displayMode": "table", "placement": "bottom", "showLegend": true,
                    "calcs": ["mean", "max", "lastNotNull"],
                },
                "tooltip": { "mode": "multi", "sort": "desc" },
            }),
            Look::Number => json!({
                "reduceOptions": newest, "colorMode": "value", "graphMode": "none", "textMode": "auto",
                "justifyMode": "auto", "orientation": "auto", "wideLayout": true,
                "showPercentChange": false, "percentChangeColorMode": "standard",
            }),
            Look::Bars => json!({
                "reduceOptions": newest, "orientation": "horizontal", "displayMode": "basic", "valueMode": "color",
                "namePlacement": "auto", "showUnfilled": true, "sizing": "auto",
                "minVizWidth": 8, "minVizHeight": 16, "maxVizHeight": 300,
                "legend": { "showLegend": false, "displayMode": "list", "placement": "bottom", "calcs": [] },
            }),
        }
    }
}

/// The one that is chosen above the dashboard.
fn datasource() -> Value {
    json!({ "type": "prometheus", "uid": "${datasource}" })
}

/// One page.
#[derive(Debug, Clone)]
pub(super) struct Dashboard {
    /// Part of its address, and of its file's name.
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    /// Labels that are chosen above it, each with the series whose values there are.
    pub(super) variables: &'static [(&'static str, &'static str, &'static str)],
    /// Rows: title and panels.
    pub(super) rows: Vec<(&'static str, Vec<Panel>)>,
}

impl Dashboard {
    pub(super) fn json(&self) -> Value {
        let variables = self.variables.iter().map(|(name, label, query)| {
            json!({
                "name": name,
                "label": label,
                "type": "query",
                "datasource": datasource(),
                "query": { "query": query, "refId": "variable" },
                "definition": query,
                "refresh": 2,
                "sort": 1,
                "multi": true,
                "includeAll": true,
                "allValue": ".*",
                "current": { "selected": true, "text": ["All"], "value": ["$__all"] },
            })
        });
        let source = json!({
            "name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "refresh": 1,
        });
        let list: Vec<Value> = [source].into_iter().chain(variables).collect();
        json!({
            "uid": format!("bowline-{}", self.name),
            "title": format!("Bowline / {}", self.title),
            "tags": ["bowline"],
            "schemaVersion": 39,
            "version": 1,
            "editable": true,
            "graphTooltip": 1,
            "refresh": "30s",
            "timezone": "browser",
            "time": { "from": "now-6h", "to": "now" },
            "templating": { "list": list },
            "annotations": { "list": [] },
            "links": [{
                "title": "Bowline", "type": "dashboards", "tags": ["bowline"], "asDropdown": true, "includeVars": true,
                "keepTime": true, "icon": "external link", "tooltip": "", "targetBlank": false, "url": "",
            }],
            "panels": self.panels(),
        })
    }

    /// Row by row, from left to right.
    fn panels(&self) -> Vec<Value> {
        let (mut all, mut y) = (Vec::new(), 0);
        for (title, panels) in &self.rows {
            all.push(json!({
                "id": all.len() + 1, "type": "row", "title": title, "collapsed": false, "panels": [],
                "gridPos": { "h": 1, "w": COLUMNS, "x": 0, "y": y },
            }));
            y += 1;
            let (mut x, mut tallest) = (0, 0);
            for panel in panels {
                if x + panel.width > COLUMNS {
                    (x, y, tallest) = (0, y + tallest, 0);
                }
                all.push(panel.json(all.len() + 1, (x, y)));
                x += panel.width;
                tallest = tallest.max(panel.height());
            }
            y += tallest;
        }
        all
    }
}
