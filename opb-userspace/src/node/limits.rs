//! `limits` of the node file: sizes of the policy's files.

use crate::document::{Decoder, Fields};
use crate::files::{self, Limits};

pub(super) fn read(decoder: &mut Decoder<'_>, fields: &mut Fields<'_, '_>) -> Limits {
    let mut limits = Limits::default();
    let Some(node) = fields.take("limits") else { return limits };
    let Some(mut fields) = decoder.fields("`limits`", node) else { return limits };
    for (key, limit) in
        [("policy-file", &mut limits.policy), ("prefixes-file", &mut limits.prefixes)]
    {
        let Some(node) = fields.take(key) else { continue };
        let Some(text) = decoder.text(&format!("`{key}`"), node) else { continue };
        match files::size(text) {
            Some(size) => *limit = size,
            None => {
                let message =
                    format!("`{key}` must be a size such as 500kB, 64MB or 1GB, not `{text}`");
                decoder.report.error(decoder.spot(node), message);
            }
        }
    }
    fields.finish(decoder);
    limits
}
