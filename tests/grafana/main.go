// Decodes dashboards strictly by Grafana's own models: what they do not know, lack or have of another type is refused.
package main

import (
	"fmt"
	"os"

	"github.com/grafana/grafana-foundation-sdk/go/cog/plugins"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
)

func main() {
	plugins.RegisterDefaultPlugins()
	failed := len(os.Args) < 2
	for _, path := range os.Args[1:] {
		if err := decode(path); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", path, err)
			failed = true
		}
	}
	if failed {
		os.Exit(1)
	}
}

func decode(path string) error {
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var one dashboard.Dashboard
	if err := one.UnmarshalJSONStrict(raw); err != nil {
		return err
	}
	return one.Validate()
}
