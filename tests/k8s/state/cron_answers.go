// Prints cron_answers.tsv: for each expression, time zone and moment, the next three starts by robfig/cron, which
// Kubernetes uses. Run it beside a go.mod that requires github.com/robfig/cron/v3 v3.0.1:
//
//	go run . > cron_answers.tsv
package main

import (
	"fmt"
	"strings"
	"time"
	_ "time/tzdata"

	"github.com/robfig/cron/v3"
)

func main() {
	expressions := []string{
		"* * * * *", "0 2 * * *", "30 2 * * *", "15 1,13 * * *", "*/20 9-10 * * MON-fri", "5/20 0 * * *", "0-10/5,45 */6 * * *",
		"0 0 29 2 *", "0 0 31 * *", "0 12 1 jan,JUL *", "0 0 13 * fri", "0 0 */12 * mon", "0 0 ? * mon", "59 23 * * sun",
		"0 0 1-7 * */3", "0 3 */1 * 6", "@hourly", "@daily", "@weekly", "@monthly", "@yearly",
	}
	places := []struct{ zone, after string }{
		{"UTC", "2026-01-31T02:00:00Z"},
		{"UTC", "2027-12-31T23:59:59Z"},
		{"Europe/Berlin", "2026-03-28T12:00:00Z"},
		{"Europe/Berlin", "2026-03-29T00:10:00Z"},
		{"Europe/Berlin", "2026-10-24T12:00:00Z"},
		{"Europe/Berlin", "2026-10-24T23:50:00Z"},
		{"America/New_York", "2026-03-07T18:30:30Z"},
		{"Asia/Kathmandu", "2026-05-05T18:14:00Z"},
		{"Australia/Sydney", "2026-04-04T10:00:00Z"},
	}
	for _, expression := range expressions {
		for _, place := range places {
			schedule, err := cron.ParseStandard("TZ=" + place.zone + " " + expression)
			if err != nil {
				panic(err)
			}
			moment, err := time.Parse(time.RFC3339, place.after)
			if err != nil {
				panic(err)
			}
			row := []string{expression, place.zone, place.after}
			for range 3 {
				moment = schedule.Next(moment)
				row = append(row, moment.UTC().Format(time.RFC3339))
			}
			fmt.Println(strings.Join(row, "\t"))
		}
	}
}
