/// The forms of text that keys hold. The parser of each is in `literal`; here is what editors and people are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Any,
    Command,
    Build,
    Name,
    RelativePath,
    AbsolutePath,
    UrlPath,
    GrpcService,
    Duration,
    Positive,
    Size,
    Share,
    Rate,
    Cron,
    Step,
    AbortRule,
    LatencyObjective,
    Runtime,
    Package,
    Image,
    SecretSource,
    Reference,
    Host,
    Cidr,
    Url,
    Header,
    Extension,
    Target,
    EnvironmentId,
    LogSink,
    Listen,
    Email,
    Destination,
    Recipient,
}

impl Form {
    /// Shown in the reference: what is written.
    pub(crate) fn example(self) -> &'static str {
        match self {
            Self::Any => "text",
            Self::Command => "a shell command",
            Self::Build => "a shell command, or `\"\"`",
            Self::Name => "a name: `a-z`, `0-9`, `-`, at most 40 characters",
            Self::RelativePath => "a path inside the folder",
            Self::AbsolutePath => "an absolute path",
            Self::UrlPath => "a path starting with `/`",
            Self::GrpcService => "the full name of a gRPC service: `shop.v1.Cart`, or `\"\"`",
            Self::Duration | Self::Positive => "a duration: `300ms`, `30s`, `5m`, `1h`, `1d`, `1y`",
            Self::Size => "a size: `64KiB`, `20MiB`, `1GiB`",
            Self::Share => "a share: `70%`, `99.9%`",
            Self::Rate => "a rate: `50/s`, `10/m`, `1000/h`, `5000/d`",
            Self::Cron => "five cron fields, UTC: `0 3 * * mon-fri`",
            Self::Step => "`5% for 1m`",
            Self::AbortRule => {
                "`error_rate > 1%`, `error_rate > stable + 0.5%`, `p99 > 500ms` or `p99 > stable + 100ms`"
            }
            Self::LatencyObjective => "`99% under 300ms`",
            Self::Runtime => "a name and a version: `python 3.11`",
            Self::Package => "the name of a Debian package",
            Self::Image => "an image: `registry.example.com/uploads:1.4`",
            Self::SecretSource => "`aws:ID`, `vault:PATH` or `file:PATH`",
            Self::Reference => "a reference: `postgres.db.url`",
            Self::Host => "a host name: `uploads.example.com`, `*.example.com`",
            Self::Cidr => "an address or a network: `10.0.0.0/8`, `2001:db8::/32`",
            Self::Url => "a URL: `https://example.com`",
            Self::Header => "a header's name: `X-Auth-Token`",
            Self::Extension => "a file extension, lower case, without the dot: `png`",
            Self::Target => {
                "`local`, `ssh://user@host`, `https://host`, `kubernetes` or `kubernetes:context/namespace`"
            }
            Self::EnvironmentId => "a UUID, as `bowline status` shows it",
            Self::LogSink => "`syslog+tls://HOST:PORT` or `otlp`",
            Self::Listen => "an address and a port: `0.0.0.0:443`, `[::]:443`",
            Self::Email => "an e-mail address",
            Self::Destination => "an absolute path, or `s3://BUCKET/PREFIX`",
            Self::Recipient => "an age recipient: `age1…`",
        }
    }

    /// For the JSON Schema: never refuses what the parser takes, and refuses most of what it does not.
    pub(crate) fn pattern(self) -> Option<&'static str> {
        Some(match self {
            Self::Any | Self::Build => return None,
            Self::Command => r"\S",
            Self::Name => "^[a-z][a-z0-9-]{0,39}$",
            Self::RelativePath => "^[^/]",
            Self::AbsolutePath | Self::UrlPath => "^/",
            Self::GrpcService => "^[A-Za-z0-9_.]*$",
            Self::Duration | Self::Positive => "^[0-9]+(ms|s|m|h|d|y)$",
            Self::Size => "^[0-9]+(B|KiB|MiB|GiB|TiB)$",
            Self::Share => r"^[0-9]+(\.[0-9]{1,4})?%$",
            Self::Rate => "^[0-9]+/[smhd]$",
            Self::Cron => r"^\s*(\S+\s+){4}\S+\s*$",
            Self::Step => r"^\s*[0-9]+%\s+for\s+[0-9]+(ms|s|m|h|d|y)\s*$",
            Self::AbortRule => r"^\s*(error_rate|p[0-9]+(\.[0-9]+)?)\s*>\s*\S",
            Self::LatencyObjective => r"^\s*[0-9]+(\.[0-9]{1,4})?%\s+under\s+[0-9]+(ms|s|m|h|d|y)\s*$",
            Self::Runtime => r"^[a-z][a-z0-9-]* [0-9]+(\.[0-9]+)*$",
            Self::Package => "^[a-z0-9][a-z0-9+.-]+$",
            Self::Image => r"^\S+$",
            Self::SecretSource => "^(aws|vault|file):.",
            Self::Reference => r"^(postgres|mariadb|redis|volume|bucket|service|app|bowline)\.",
            Self::Host => r"^(\*\.)?[A-Za-z0-9_.-]+$|^\[[0-9A-Fa-f:.]+\]$",
            Self::Cidr => r"^[0-9A-Fa-f:.]+(/[0-9]{1,3})?$",
            Self::Url => "^https?://",
            Self::Header => "^[A-Za-z0-9!#$%&'*+.^_`|~-]+$",
            Self::Extension => "^[a-z0-9]{1,16}$",
            Self::Target => "^(local$|ssh://.|https://.|kubernetes$|kubernetes:)",
            Self::EnvironmentId => "^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$",
            Self::LogSink => r"^(otlp$|syslog\+tls://.)",
            Self::Listen => ":[0-9]{1,5}$",
            Self::Email => "^[^@ ]+@[^@ ]+$",
            Self::Destination => "^(/|s3://.)",
            Self::Recipient => "^age1[0-9a-z]+$",
        })
    }
}
