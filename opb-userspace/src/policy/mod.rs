//! Policy files: from text to a policy that is valid by construction.
