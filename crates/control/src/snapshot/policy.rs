//! What a request must pass and how it is answered, as the snapshot holds it.

use std::time::Duration;

use bowline_core::app::{Hsts, PlainHttp, RateBy, Upload};
use bowline_core::route::{Credentials, Gate, Maintenance, Policies, Proof, RateLimit, Transfer};
use bowline_core::units::Rate;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{SnapshotError, parsed};

#[derive(Serialize, Deserialize)]
pub(super) struct PoliciesForm {
    maintenance: Option<Vec<String>>,
    allow: Vec<String>,
    auth: Option<GateForm>,
    rate: Option<RateForm>,
    upload: Option<Vec<String>>,
}

#[derive(Serialize, Deserialize)]
struct GateForm {
    proof: ProofForm,
    salt: [u8; 16],
    digests: Vec<[u8; 32]>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ProofForm {
    Header(String),
    Bearer,
    Basic,
}

#[derive(Serialize, Deserialize)]
struct RateForm {
    count: u32,
    per: Duration,
    by: ByForm,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ByForm {
    Client,
    Route,
}

#[derive(Default, Serialize, Deserialize)]
pub(super) struct TransferForm {
    #[serde(default)]
    redirect: bool,
    #[serde(default)]
    hsts: Option<HstsForm>,
    #[serde(default)]
    compress: bool,
}

#[derive(Serialize, Deserialize)]
struct HstsForm {
    age: Duration,
    subdomains: bool,
    preload: bool,
}

pub(super) fn transfer_form(transfer: Transfer) -> TransferForm {
    let hsts = |Hsts { age, subdomains, preload }| HstsForm { age, subdomains, preload };
    let redirect = transfer.http == PlainHttp::Redirect;
    TransferForm { redirect, hsts: transfer.hsts.map(hsts), compress: transfer.compress }
}

pub(super) fn transfer(form: TransferForm) -> Transfer {
    let hsts = |HstsForm { age, subdomains, preload }| Hsts { age, subdomains, preload };
    let http = if form.redirect { PlainHttp::Redirect } else { PlainHttp::Serve };
    Transfer { http, hsts: form.hsts.map(hsts), compress: form.compress }
}

pub(super) fn networks_form(networks: &[IpNet]) -> Vec<String> {
    networks.iter().map(ToString::to_string).collect()
}

pub(super) fn networks(texts: &[String]) -> Result<Vec<IpNet>, SnapshotError> {
    texts.iter().map(|text| parsed(text, str::parse)).collect()
}

pub(super) fn form(policies: &Policies) -> PoliciesForm {
    let rate = |limit: &RateLimit| RateForm {
        count: limit.rate.count,
        per: limit.rate.per,
        by: match limit.by {
            RateBy::Client => ByForm::Client,
            RateBy::Route => ByForm::Route,
        },
    };
    PoliciesForm {
        maintenance: policies.maintenance.as_ref().map(|maintenance| networks_form(&maintenance.allow)),
        allow: networks_form(&policies.allow),
        auth: policies.auth.as_ref().map(gate_form),
        rate: policies.rate.as_ref().map(rate),
        upload: policies.upload.as_ref().map(|upload| upload.extensions.clone()),
    }
}

fn gate_form(gate: &Gate) -> GateForm {
    GateForm {
        proof: match &gate.proof {
            Proof::Header(name) => ProofForm::Header(name.clone()),
            Proof::Bearer => ProofForm::Bearer,
            Proof::Basic => ProofForm::Basic,
        },
        salt: gate.credentials.salt,
        digests: gate.credentials.digests.iter().copied().collect(),
    }
}

pub(super) fn policies(form: PoliciesForm) -> Result<Policies, SnapshotError> {
    let maintenance = form.maintenance.as_deref().map(networks).transpose()?;
    let rate = |form: RateForm| RateLimit {
        rate: Rate { count: form.count, per: form.per },
        by: match form.by {
            ByForm::Client => RateBy::Client,
            ByForm::Route => RateBy::Route,
        },
    };
    Ok(Policies {
        maintenance: maintenance.map(|allow| Maintenance { allow }),
        allow: networks(&form.allow)?,
        auth: form.auth.map(gate),
        rate: form.rate.map(rate),
        upload: form.upload.map(|extensions| Upload { extensions }),
    })
}

fn gate(form: GateForm) -> Gate {
    let proof = match form.proof {
        ProofForm::Header(name) => Proof::Header(name),
        ProofForm::Bearer => Proof::Bearer,
        ProofForm::Basic => Proof::Basic,
    };
    Gate { proof, credentials: Credentials { salt: form.salt, digests: form.digests.into_iter().collect() } }
}
