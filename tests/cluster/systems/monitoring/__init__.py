"""What the tests of docs/monitoring.md install, beside what the page installs."""
