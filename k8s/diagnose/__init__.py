"""Why a run failed or waits, and what to do."""
