"""From records to what a results page says: audits, comparisons, claims, publishing."""
