//! What came of it, read from the databases after the drain.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::Context;
use aqueduct::{Database, Status};
use serde::Serialize;

use crate::sales::SetAside;

#[derive(Debug, Serialize)]
pub(crate) struct Report {
    baskets_published: u64,
    services: BTreeMap<&'static str, Service>,
    lines_set_aside: SetAside,
}

#[derive(Debug, Serialize)]
struct Service {
    baskets_handled: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    units_sold: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    units_refused: Option<i64>,
    events_published: BTreeMap<String, i64>,
    dead_letters: i64,
}

impl Report {
    pub(crate) async fn gather(
        baskets_published: u64,
        lines_set_aside: SetAside,
        (inventory, recommendation): (&Database, &Database),
        apps: &[Status],
    ) -> anyhow::Result<Self> {
        let sold = inventory::summary(inventory).await?;
        let learnt = recommendation::summary(recommendation).await?;
        let mut dead_letters = Vec::new();
        for app in apps {
            dead_letters.push(app.dead_letters().await?);
        }
        let inventory = Service {
            baskets_handled: sold.baskets_handled,
            units_sold: Some(sold.units_sold),
            units_refused: Some(sold.units_refused),
            events_published: sold.events_published,
            dead_letters: dead_letters.first().copied().unwrap_or(0),
        };
        let recommendation = Service {
            baskets_handled: learnt.baskets_handled,
            units_sold: None,
            units_refused: None,
            events_published: learnt.events_published,
            dead_letters: dead_letters.get(1).copied().unwrap_or(0),
        };
        let services = BTreeMap::from([("inventory", inventory), ("recommendation", recommendation)]);
        Ok(Self { baskets_published, services, lines_set_aside })
    }

    /// Written beside and renamed, so that a report is there whole or not at all.
    pub(crate) fn write(&self, path: &Path) -> anyhow::Result<()> {
        let draft = path.with_extension("draft");
        let text = serde_json::to_string_pretty(self)?;
        fs::write(&draft, text + "\n").with_context(|| format!("--report {}", draft.display()))?;
        fs::rename(&draft, path).with_context(|| format!("--report {}", path.display()))
    }
}
