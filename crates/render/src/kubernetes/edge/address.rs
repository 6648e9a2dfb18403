//! The address of the balancer in front: on an object of the app where a controller reads it from there, else on what somebody else keeps,
//! by a command that is said.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::Edge;
use crate::kubernetes::Ctx;
use crate::object::Out;

/// Classes of GKE's own controller, and by which annotation of an Ingress it is told the name of an address that was reserved.
const GKE: [(&str, &str); 2] = [
    ("gce", "kubernetes.io/ingress.global-static-ip-name"),
    ("gce-internal", "kubernetes.io/ingress.regional-static-ip-name"),
];

/// It goes by this annotation, and reads no `ingressClassName`.
const CLASS: &str = "kubernetes.io/ingress.class";

/// What is said to GKE's own controller, where the class is one of its.
pub(super) fn of_gke(class: Option<&str>, nginx: bool, address: Option<&str>) -> Option<Vec<(&'static str, String)>> {
    let (class, annotation) = GKE.into_iter().find(|(one, _)| !nginx && class == Some(*one))?;
    let own = address.map(|address| (annotation, address.to_owned()));
    Some([(CLASS, class.to_owned())].into_iter().chain(own).collect())
}

/// Why an address is not carried.
pub(crate) fn refused(edge: &Edge, address: &str) -> Option<&'static str> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let is_ip = address.parse::<IpAddr>().is_ok();
    if !is_ip && (address.is_empty() || !address.chars().all(is_word)) {
        return Some("an address is that of a network, or the name of one");
    }
    match edge {
        Edge::Ingress { class, nginx } if of_gke(class.as_deref(), *nginx, None).is_some() && is_ip => {
            Some("GKE takes the name under which an address was reserved, and not the address")
        }
        Edge::Ingress { .. } | Edge::Gateway { .. } => None,
    }
}

/// What whoever keeps the Gateway or the controller does for it.
pub(super) fn note(ctx: &Ctx<'_>, edge: &Edge, out: &mut Out) {
    let Some(address) = ctx.settings().address else { return };
    let is_ip = address.parse::<IpAddr>().is_ok();
    match edge {
        Edge::Gateway { namespace, name, .. } => {
            let place = namespace.as_ref().map(|namespace| format!(" -n {namespace}")).unwrap_or_default();
            let patch = json!({ "spec": { "addresses": [{ "type": kind(&address), "value": address }] } });
            out.note(format!(
                "Gateway {name} has the address {address} once it is said there: kubectl{place} patch gateway {name} --type merge -p '{patch}'"
            ));
        }
        Edge::Ingress { class, nginx } if of_gke(class.as_deref(), *nginx, None).is_some() => {}
        Edge::Ingress { nginx: true, .. } if is_ip => out.note(format!(
            "the Service of ingress-nginx has the address {address} once it is said there: \
             kubectl -n ingress-nginx patch service ingress-nginx-controller -p '{}'",
            balancer(&address)
        )),
        Edge::Ingress { .. } if is_ip => out.note(format!(
            "the Service of the ingress controller has the address {address} once it is said there: kubectl -n NAMESPACE patch service NAME -p '{}'",
            balancer(&address)
        )),
        Edge::Ingress { .. } => out.note(format!(
            "the Service of the ingress controller has the address {address} once it is said there by the annotation that its cloud reads: \
             kubectl -n NAMESPACE annotate service NAME KEY={address}"
        )),
    }
}

/// Of an address in a Gateway.
fn kind(address: &str) -> &'static str {
    match address.parse::<IpAddr>() {
        Ok(_) => "IPAddress",
        Err(_) if address.contains('.') => "Hostname",
        Err(_) => "NamedAddress",
    }
}

fn balancer(address: &str) -> Value {
    json!({ "spec": { "loadBalancerIP": address } })
}
