//! Why an upload is refused.

macro_rules! faults {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $sentence:literal;)*) => {
        /// Why an upload is refused. Which one is named first depends on the bytes alone, not on how they were cut.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum UploadFault {
            $($(#[$doc])* $name,)*
        }

        impl UploadFault {
            /// The constant code that logs and metrics carry.
            pub const fn code(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// For whoever reads the page.
            pub const fn sentence(self) -> &'static str {
                match self { $(Self::$name => $sentence,)* }
            }
        }
    };
}

faults! {
    /// `Content-Encoding`: what is inside cannot be seen.
    Encoded = "upload-encoded", "The body is compressed or otherwise encoded; send it as it is.";
    /// An upgrade: what comes behind it cannot be judged.
    Tunnel = "upload-tunnel", "Where files are judged the protocol cannot be changed, to WebSocket or another.";
    MediaType = "upload-media-type", "Files are taken as multipart/form-data, or under a path that ends with their name.";
    Boundary = "upload-boundary", "The boundary of multipart/form-data is missing, given twice, or not well-formed.";
    /// A boundary where it does not belong, or bytes before the first or behind the last one.
    Delimiter = "upload-delimiter", "The parts of the body are not cleanly delimited.";
    PartHead = "upload-part-head", "The head of a part is not well-formed.";
    TooManyParts = "upload-too-many-parts", "The body has too many parts.";
    Truncated = "upload-truncated", "The body ends within a part.";
    TwoNames = "upload-two-names", "A part has two file names.";
    Unnamed = "upload-unnamed", "A file has no name.";
    Name = "upload-name", "A file's name is not one that can be judged.";
    Extension = "upload-extension", "A file's extension is not among those that are taken here.";
    /// `a.php.jpg`
    HiddenExtension = "upload-hidden-extension", "A file's name hides the extension of a program.";
    /// The leading bytes are not those of the extension, or of the media type.
    Content = "upload-content", "The content is not what a file's extension or the body's type says.";
    Program = "upload-program", "A file is a program.";
    NotText = "upload-not-text", "A file that should be text is not: it is not UTF-8, or holds control characters.";
    /// A program or an archive inside something else.
    Polyglot = "upload-polyglot", "A file holds a program or an archive behind another beginning.";
}
