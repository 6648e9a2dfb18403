// The file beside is Preact as npm has it; so are its types.
export * from "preact";
