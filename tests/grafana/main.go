// Decodes dashboards strictly by Grafana's own models: what they do not know, lack or have of another type is refused.
package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/grafana/grafana-foundation-sdk/go/cog"
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
	if err := found(one.UnmarshalJSONStrict(raw)); err != nil {
		return err
	}
	return found(one.Validate())
}

// A list of errors with nothing in it is none.
func found(err error) error {
	var all cog.BuildErrors
	if errors.As(err, &all) && len(all) == 0 {
		return nil
	}
	return err
}
