// Checks a dashboard, read from standard input, against Grafana's schema of dashboards, panels and queries.
package main

import (
	"errors"
	"io"
	"log"
	"os"

	"github.com/grafana/grafana-foundation-sdk/go/cog/plugins"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
)

func main() {
	plugins.RegisterDefaultPlugins()
	content, failed := io.ReadAll(os.Stdin)
	var read dashboard.Dashboard
	if err := errors.Join(failed, read.UnmarshalJSONStrict(content), read.Validate()); err != nil {
		log.Fatal(err)
	}
}
