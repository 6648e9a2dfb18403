//! The wire form of what a request must pass, and of how it is answered.

use std::time::Duration;

use bowline_core::app::{Hsts, PlainHttp, RateBy, Upload};
use bowline_core::route::{Credentials, Gate, Maintenance, Policies, Proof, RateLimit, Transfer};
use bowline_core::units::Rate;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::TableError;
use super::table::{millis, parse};

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct PoliciesFrame {
    maintenance: Option<Vec<String>>,
    allow: Vec<String>,
    auth: Option<GateFrame>,
    rate: Option<RateFrame>,
    upload: Option<Vec<String>>,
}

#[derive(Debug, Serialize, Deserialize)]
struct GateFrame {
    proof: ProofFrame,
    credentials: CredentialsFrame,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ProofFrame {
    Header(String),
    Bearer,
    Basic,
}

#[derive(Serialize, Deserialize)]
struct CredentialsFrame {
    salt: [u8; 16],
    digests: Vec<[u8; 32]>,
}

impl std::fmt::Debug for CredentialsFrame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CredentialsFrame({})", self.digests.len())
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct RateFrame {
    count: u32,
    per_ms: u64,
    by_client: bool,
}

pub(super) fn networks(networks: &[IpNet]) -> Vec<String> {
    networks.iter().map(ToString::to_string).collect()
}

pub(super) fn parse_networks(texts: &[String]) -> Result<Vec<IpNet>, TableError> {
    texts.iter().map(|text| parse("network", text, str::parse)).collect()
}

impl From<&Policies> for PoliciesFrame {
    fn from(policies: &Policies) -> Self {
        let gate = |gate: &Gate| GateFrame {
            proof: match &gate.proof {
                Proof::Header(name) => ProofFrame::Header(name.clone()),
                Proof::Bearer => ProofFrame::Bearer,
                Proof::Basic => ProofFrame::Basic,
            },
            credentials: CredentialsFrame {
                salt: gate.credentials.salt,
                digests: gate.credentials.digests.iter().copied().collect(),
            },
        };
        let rate = |limit: &RateLimit| RateFrame {
            count: limit.rate.count,
            per_ms: millis(limit.rate.per),
            by_client: match limit.by {
                RateBy::Client => true,
                RateBy::Route => false,
            },
        };
        Self {
            maintenance: policies.maintenance.as_ref().map(|maintenance| networks(&maintenance.allow)),
            allow: networks(&policies.allow),
            auth: policies.auth.as_ref().map(gate),
            rate: policies.rate.as_ref().map(rate),
            upload: policies.upload.as_ref().map(|upload| upload.extensions.clone()),
        }
    }
}

impl PoliciesFrame {
    pub(super) fn parse(&self) -> Result<Policies, TableError> {
        let maintenance = self.maintenance.as_deref().map(parse_networks).transpose()?;
        Ok(Policies {
            maintenance: maintenance.map(|allow| Maintenance { allow }),
            allow: parse_networks(&self.allow)?,
            auth: self.auth.as_ref().map(GateFrame::parse),
            rate: self.rate.as_ref().map(RateFrame::parse).transpose()?,
            upload: self.upload.as_ref().map(|extensions| Upload { extensions: extensions.clone() }),
        })
    }
}

impl GateFrame {
    fn parse(&self) -> Gate {
        let proof = match &self.proof {
            ProofFrame::Header(name) => Proof::Header(name.clone()),
            ProofFrame::Bearer => Proof::Bearer,
            ProofFrame::Basic => Proof::Basic,
        };
        let CredentialsFrame { salt, digests } = &self.credentials;
        Gate { proof, credentials: Credentials { salt: *salt, digests: digests.iter().copied().collect() } }
    }
}

impl RateFrame {
    fn parse(&self) -> Result<RateLimit, TableError> {
        if self.count == 0 || self.per_ms == 0 {
            return Err(TableError::Rate);
        }
        let rate = Rate { count: self.count, per: Duration::from_millis(self.per_ms) };
        Ok(RateLimit { rate, by: if self.by_client { RateBy::Client } else { RateBy::Route } })
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct TransferFrame {
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    redirect: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hsts: Option<HstsFrame>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    compress: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct HstsFrame {
    age_s: u64,
    subdomains: bool,
    preload: bool,
}

impl From<Transfer> for TransferFrame {
    fn from(transfer: Transfer) -> Self {
        let hsts =
            |hsts: Hsts| HstsFrame { age_s: hsts.age.as_secs(), subdomains: hsts.subdomains, preload: hsts.preload };
        let Transfer { http, hsts: known, compress } = transfer;
        Self { redirect: http == PlainHttp::Redirect, hsts: known.map(hsts), compress }
    }
}

impl TransferFrame {
    pub(super) fn parse(&self) -> Transfer {
        let hsts = |hsts: &HstsFrame| Hsts {
            age: Duration::from_secs(hsts.age_s),
            subdomains: hsts.subdomains,
            preload: hsts.preload,
        };
        Transfer {
            http: if self.redirect { PlainHttp::Redirect } else { PlainHttp::Serve },
            hsts: self.hsts.as_ref().map(hsts),
            compress: self.compress,
        }
    }
}
