//! What docs/openapi.yaml says of the control API, against what a running daemon answers.

use std::{collections::BTreeSet, path::Path};

use super::*;
use crate::node::{Node, POLICY};

/// The document, and which of its answers have been compared.
pub(crate) struct Contract {
    document: Value,
    compared: BTreeSet<String>,
}

impl Contract {
    pub(crate) fn read() -> Result<Self> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/openapi.yaml");
        let document = serde_yaml::from_str(&fs::read_to_string(path)?)?;
        Ok(Self { document, compared: BTreeSet::new() })
    }

    /// Makes a request, and compares request and answer with the document.
    pub(crate) fn check(
        &mut self,
        node: &Node,
        (method, path): (&str, &str),
        body: Option<Value>,
        expected: u16,
    ) -> Result<Value> {
        let (code, answer) = node.call(method, path, body.as_ref())?;
        assert_eq!(code, expected, "{method} {path}: {answer}");
        let plain = path.split('?').next().unwrap_or(path);
        let operation = format!("{plain} {}", method.to_lowercase());
        let described = &self.document["paths"][plain][method.to_lowercase()];
        if let Some(body) = body.filter(|_| expected != 400) {
            self.compare(
                &described["requestBody"]["content"]["application/json"]["schema"],
                &body,
                &operation,
            )?;
        }
        let schema =
            &described["responses"][code.to_string()]["content"]["application/json"]["schema"];
        self.compare(schema, &answer, &format!("{operation} {code}"))?;
        self.compared.insert(format!("{operation} {code}"));
        Ok(answer)
    }

    fn compare(&self, schema: &Value, found: &Value, what: &str) -> Result<()> {
        anyhow::ensure!(schema.is_object(), "{what} is not described");
        // The schema with the definitions that it refers to.
        let mut whole = schema.clone();
        whole["components"] = self.document["components"].clone();
        let validator = jsonschema::draft202012::new(&whole)?;
        let errors: Vec<_> = validator
            .iter_errors(found)
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect();
        anyhow::ensure!(errors.is_empty(), "{what}: {errors:#?}\n{found:#}");
        Ok(())
    }

    /// Every answer that the document lists, other than 500, which is for kernels that fail.
    fn answers(&self) -> BTreeSet<String> {
        let mut listed = BTreeSet::new();
        for (path, methods) in self.document["paths"].as_object().into_iter().flatten() {
            for (method, operation) in methods.as_object().into_iter().flatten() {
                for code in operation["responses"].as_object().into_iter().flat_map(|it| it.keys())
                {
                    if code != "500" {
                        listed.insert(format!("{path} {method} {code}"));
                    }
                }
            }
        }
        listed
    }
}

fn sessions(contract: &mut Contract, node: &Node) -> Result<()> {
    let mut check = |request, body, code| contract.check(node, request, body, code);
    check(("GET", "/v1/sessions?user=alice&address=203.0.113.9"), None, 200)?;
    check(("GET", "/v1/sessions?address=x"), None, 400)?;
    let session = json!({"nas": "bras1", "id": "s1"});
    let removed = check(("POST", "/v1/sessions/remove"), Some(session), 200)?;
    assert_eq!(removed["removed"], 0);
    check(("POST", "/v1/sessions/remove"), Some(json!({"nas": "bras1"})), 400)?;
    Ok(())
}

fn bypasses(contract: &mut Contract, node: &Node) -> Result<()> {
    let mut check = |request, body, code| contract.check(node, request, body, code);
    check(("POST", "/v1/bypass?seconds=60&reason=x&group=dyn"), None, 200)?;
    check(("POST", "/v1/bypass?seconds=60&reason=x"), None, 200)?;
    for wrong in [
        "/v1/bypass?seconds=0&reason=x",
        "/v1/bypass?seconds=60",
        "/v1/bypass?seconds=86401&reason=x",
        "/v1/bypass?seconds=1&reason=",
        "/v1/bypass?seconds=60&reason=x&group=nobody",
    ] {
        check(("POST", wrong), None, 400)?;
    }
    let bypasses = check(("GET", "/v1/bypass"), None, 200)?;
    assert_eq!(bypasses.as_array().map(Vec::len), Some(2));
    check(("GET", "/v1/status"), None, 200)?;
    check(("POST", "/v1/bypass/end?group=dyn"), None, 200)?;
    check(("POST", "/v1/bypass/end?all=1"), None, 400)?;
    check(("POST", "/v1/bypass/end"), None, 200)?;
    Ok(())
}

#[test]
#[ignore = "root: cargo xtask test --lane kernel"]
fn the_daemon_answers_as_the_document_says() -> Result<()> {
    let suspect = "suspect: {webhook: \"http://127.0.0.1:9/\", command: /bin/true}\n";
    let dns = "dns: {servers: [\"127.0.0.1:9\"]}\n";
    let node = Node::start(&format!("watch: off\n{dns}{suspect}"))?;
    let mut contract = Contract::read()?;
    let mut check = |request, body, code| contract.check(&node, request, body, code);
    let entries = |prefix: &str| {
        json!({"entries": [
            {"prefix": prefix, "group": "dyn", "reason": "x", "until": "2999-01-01T00:00:00Z"},
            {"prefix": "192.0.2.0/24", "exempt": true},
        ]})
    };
    check(("POST", "/v1/subscribers"), Some(entries("203.0.113.9/32")), 200)?;
    check(("POST", "/v1/subscribers"), Some(entries("203.0.113.9/24")), 422)?;
    check(("POST", "/v1/subscribers"), Some(json!({"nonsense": 1})), 400)?;
    for (prefix, code) in [("203.0.113.12/32", 200), ("203.0.113.12/24", 422)] {
        let mut validation = entries(prefix);
        validation["validate_only"] = json!(true);
        check(("POST", "/v1/subscribers"), Some(validation), code)?;
    }
    check(("POST", "/v1/subscribers?confirm=60"), Some(entries("203.0.113.10/32")), 200)?;
    check(("POST", "/v1/subscribers?confirm=60"), Some(entries("203.0.113.11/32")), 409)?;
    check(("POST", "/v1/subscribers?confirm=never"), Some(entries("203.0.113.11/32")), 400)?;
    check(("GET", "/v1/status"), None, 200)?;
    check(("POST", "/v1/confirm"), None, 200)?;
    let listed = check(("GET", "/v1/subscribers"), None, 200)?;
    let prefixes: Vec<_> =
        listed.as_array().into_iter().flatten().map(|it| &it["prefix"]).collect();
    assert_eq!(
        prefixes,
        ["192.0.2.0/24", "203.0.113.9/32", "203.0.113.10/32"],
        "validations change nothing"
    );
    check(("POST", "/v1/subscribers/remove"), Some(json!({"prefixes": ["203.0.113.9/32"]})), 200)?;
    check(("POST", "/v1/subscribers/remove"), Some(json!({"prefixes": ["x"]})), 422)?;
    check(("POST", "/v1/subscribers/remove"), Some(json!([])), 400)?;
    check(("GET", "/v1/explain?src=203.0.113.9&dst=192.0.2.1"), None, 200)?;
    check(("GET", "/v1/explain?src=203.0.113.9"), None, 400)?;
    check(("GET", "/v1/counters"), None, 200)?;
    check(("GET", "/v1/counters?by=interface"), None, 200)?;
    check(("GET", "/v1/counters?by=colour"), None, 400)?;
    check(("GET", "/v1/events"), None, 200)?;
    check(("GET", "/v1/events?after=yesterday"), None, 400)?;
    check(("GET", "/v1/talkers"), None, 200)?;
    check(("GET", "/v1/talkers?limit=all"), None, 400)?;

    let relays = "relays:\n  named: {hosts: [mail.isp.example]}\n";
    node.write("policy.yaml", &POLICY.replace("relays:\n", relays).replace("/25]", "/26]"))?;
    check(("GET", "/v1/diff"), None, 200)?;
    check(("POST", "/v1/reload?confirm=60"), None, 200)?;
    check(("GET", "/v1/status"), None, 200)?;
    check(("POST", "/v1/reload"), None, 422)?;
    check(("GET", "/v1/commits"), None, 200)?;
    check(("POST", "/v1/rollback"), None, 200)?;
    check(("POST", "/v1/rollback"), None, 200)?;
    check(("GET", "/v1/status"), None, 200)?;
    check(("POST", "/v1/reload?confirm=60&comment=why"), None, 200)?;
    check(("POST", "/v1/confirm"), None, 200)?;
    check(("POST", "/v1/reload?confirm=never"), None, 400)?;
    check(("POST", "/v1/reload?commit=1"), None, 200)?;
    check(("GET", "/v1/commits"), None, 200)?;
    check(("GET", "/v1/diff?from=1&to=now"), None, 200)?;
    check(("GET", "/v1/diff?from=yesterday"), None, 400)?;
    check(("GET", "/v1/diff?from=99"), None, 422)?;
    check(("GET", "/v1/commits/file?number=1&index=1"), None, 200)?;
    check(("GET", "/v1/commits/file?number=1&index=9"), None, 404)?;
    check(("GET", "/v1/commits/file?number=x"), None, 400)?;
    check(("POST", "/v1/reload"), None, 200)?;
    node.write("policy.yaml", "version: 1\nnonsense: 1\n")?;
    check(("GET", "/v1/diff"), None, 422)?;
    check(("POST", "/v1/reload"), None, 422)?;
    check(("GET", "/v1/status"), None, 200)?;

    sessions(&mut contract, &node)?;
    bypasses(&mut contract, &node)?;
    let (missing, compared) = (contract.answers(), &contract.compared);
    let missing: Vec<_> = missing.difference(compared).collect();
    assert!(missing.is_empty(), "described and never compared: {missing:?}");
    Ok(())
}
