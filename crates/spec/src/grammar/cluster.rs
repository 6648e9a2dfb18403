//! `kubernetes = { … }` of an environment.

use super::Kind::{Text, Words};
use super::Presence::Omitted;
use super::file::{key, table};
use super::{Form, TableSpec};

pub(super) static KUBERNETES: TableSpec = table(
    "kubernetes",
    "Settings of a cluster.",
    &[
        key("ingress_class", Text(Form::Any), Omitted("the cluster's"), "Ingress class."),
        key(
            "gateway",
            Text(Form::Any),
            Omitted("an Ingress"),
            "`NAMESPACE/NAME` of a Gateway that routes are attached to, instead of an Ingress.",
        ),
        key("issuer", Text(Form::Any), Omitted("none"), "Issuer of cert-manager: a ClusterIssuer, or `Issuer/NAME`."),
        key(
            "address",
            Text(Form::Any),
            Omitted("assigned"),
            "Address of the load balancer: with the classes `gce` and `gce-internal` the name under which it was reserved; else the command that sets it is said.",
        ),
        key("storage_class", Text(Form::Any), Omitted("the cluster's"), "Storage class of volumes."),
        key(
            "node_pool",
            Text(Form::Any),
            Omitted("any"),
            "Nodes that instances run on: a label `KEY=VALUE`, or the value of `bowline.dev/pool`.",
        ),
        key(
            "secret_store",
            Text(Form::Any),
            Omitted("none"),
            "The store that `aws:` and `vault:` secrets are read from: a SecretStore of the External Secrets Operator, or `ClusterSecretStore/NAME`.",
        ),
        key(
            "rollouts",
            Words(&["argo"]),
            Omitted("Deployments, which roll"),
            "Who carries out `canary` and `blue-green`: Argo Rollouts.",
        ),
    ],
);
