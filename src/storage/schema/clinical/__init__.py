"""Section III: patients, history, encounters, charting, treatment; one module per subsection."""
