// Checks a dashboard, read from standard input, against Grafana's schema of dashboards, panels and queries.
package main

import (
	"errors"
	"io"
	"log"
	"os"
	"strings"

	"github.com/grafana/grafana-foundation-sdk/go/cog/plugins"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
)

func main() {
	plugins.RegisterDefaultPlugins()
	content, failed := io.ReadAll(os.Stdin)
	var read dashboard.Dashboard
	err := errors.Join(failed, read.UnmarshalJSONStrict(content), read.Validate())
	// A success is a list of no errors, not nil.
	if err != nil && strings.TrimSpace(err.Error()) != "" {
		log.Fatal(err)
	}
}
