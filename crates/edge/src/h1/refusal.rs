//! Why a message is not let through. Each reason has a constant code for logs and metrics.

macro_rules! reasons {
    ($(#[$doc:meta])* $type:ident { $($(#[$vdoc:meta])* $name:ident = $code:literal $(, $status:literal)?;)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
        pub enum $type {
            $($(#[$vdoc])* #[error($code)] $name,)*
        }

        impl $type {
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The constant code that logs and metrics carry.
            pub const fn code(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }
        }
    };
}

reasons! {
    /// Why a client's bytes are not a request. `Display` is the reason code.
    Refusal {
        /// The request line is not `METHOD SP target SP HTTP/1.x`.
        RequestLine = "request-line";
        Method = "method";
        /// CONNECT or TRACE.
        MethodNotAllowed = "method-not-allowed";
        /// `HTTP/` but not a version in the form of digit, dot, digit.
        Version = "version";
        /// A well-formed version that is neither 1.0 nor 1.1.
        VersionNotSupported = "version-not-supported";
        UriTooLong = "uri-too-long";
        /// Neither origin-form nor absolute-form of http or https.
        TargetForm = "target-form";
        /// A byte that has no place in a target: control, space, `#`, not ASCII.
        TargetByte = "target-byte";
        PercentEncoding = "percent-encoding";
        /// `%2f`, `%5c` or a backslash.
        EncodedSlash = "encoded-slash";
        /// `%00` to `%1f`, `%7f`.
        EncodedControl = "encoded-control";
        /// `%25` before two hexadecimal digits.
        DoubleEncoding = "double-encoding";
        /// `.`, `..`, also encoded, also with `;` after it.
        DotSegment = "dot-segment";
        /// `//`.
        EmptySegment = "empty-segment";
        /// The path's encoded bytes are not UTF-8.
        PathUtf8 = "path-utf8";
        HeadTooLarge = "head-too-large";
        TooManyFields = "too-many-fields";
        /// More than one CRLF before the request line.
        LeadingLines = "leading-lines";
        BareLf = "bare-lf";
        BareCr = "bare-cr";
        Nul = "nul";
        FieldName = "field-name";
        EmptyFieldName = "empty-field-name";
        SpaceBeforeColon = "space-before-colon";
        ObsFold = "obs-fold";
        FieldValue = "field-value";
        HostMissing = "host-missing";
        HostRepeated = "host-repeated";
        HostInvalid = "host-invalid";
        /// The authority of an absolute-form target is not the Host.
        HostMismatch = "host-mismatch";
        ContentLength = "content-length";
        ContentLengthRepeated = "content-length-repeated";
        LengthAndChunked = "length-and-chunked";
        TransferEncoding = "transfer-encoding";
        /// A known coding besides `chunked`.
        TransferCodingNotSupported = "transfer-coding-not-supported";
        ConnectionOptions = "connection-options";
        Expectation = "expectation";
        UpgradeWithBody = "upgrade-with-body";
        /// Bytes after an upgrade request, before it was accepted.
        BytesBeforeUpgrade = "bytes-before-upgrade";
        /// The body is not framed as announced.
        Body = "body-framing";
        /// The body ended before its announced end.
        BodyTruncated = "body-truncated";
        BodyTooLarge = "body-too-large";
        HeadTimeout = "head-timeout";
        BodyTimeout = "body-timeout";
    }
}

impl Refusal {
    /// The status to answer with; the connection is closed after it.
    pub const fn status(self) -> u16 {
        match self {
            Self::MethodNotAllowed => 405,
            Self::HeadTimeout | Self::BodyTimeout => 408,
            Self::BodyTooLarge => 413,
            Self::UriTooLong => 414,
            Self::Expectation => 417,
            Self::HeadTooLarge | Self::TooManyFields => 431,
            Self::TransferCodingNotSupported => 501,
            Self::VersionNotSupported => 505,
            Self::RequestLine
            | Self::Method
            | Self::Version
            | Self::TargetForm
            | Self::TargetByte
            | Self::PercentEncoding
            | Self::EncodedSlash
            | Self::EncodedControl
            | Self::DoubleEncoding
            | Self::DotSegment
            | Self::EmptySegment
            | Self::PathUtf8
            | Self::LeadingLines
            | Self::BareLf
            | Self::BareCr
            | Self::Nul
            | Self::FieldName
            | Self::EmptyFieldName
            | Self::SpaceBeforeColon
            | Self::ObsFold
            | Self::FieldValue
            | Self::HostMissing
            | Self::HostRepeated
            | Self::HostInvalid
            | Self::HostMismatch
            | Self::ContentLength
            | Self::ContentLengthRepeated
            | Self::LengthAndChunked
            | Self::TransferEncoding
            | Self::ConnectionOptions
            | Self::UpgradeWithBody
            | Self::BytesBeforeUpgrade
            | Self::Body
            | Self::BodyTruncated => 400,
        }
    }
}

reasons! {
    /// Why an upstream's bytes are not a response to the request: 502, and the connection is not used again.
    BadUpstream {
        StatusLine = "status-line";
        HeadTooLarge = "head-too-large";
        TooManyFields = "too-many-fields";
        BareLf = "bare-lf";
        /// A header line that is not a name, a colon and a value without control bytes.
        Field = "field";
        ContentLength = "content-length";
        ContentLengthRepeated = "content-length-repeated";
        LengthAndChunked = "length-and-chunked";
        TransferEncoding = "transfer-encoding";
        /// 101 although no upgrade was asked for, or to another protocol.
        UnaskedUpgrade = "unasked-upgrade";
        TooManyInterim = "too-many-interim";
        ConnectionOptions = "connection-options";
        /// Bytes after the end of the response.
        OverlongBody = "overlong-body";
        Body = "body-framing";
        /// Closed before the end of the body.
        BodyTruncated = "body-truncated";
        /// Not HTTP/2, or not as RFC 9113 has it: the connection has ended.
        Http2 = "http2-protocol";
        /// One answer is not as RFC 9113 has it; the others on its connection go on.
        Http2Stream = "http2-stream";
        /// Closed before the end of the head.
        HeadTruncated = "head-truncated";
    }
}
