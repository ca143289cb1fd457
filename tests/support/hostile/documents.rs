//! DID documents that name no usable key (R6). The repositories are as good as any.

use serde_json::{Value as Json, json};

use super::super::generator::SigningKey;
use super::super::generator::did::did_document_of_2019;
use super::super::generator::keys::multibase;
use super::super::generator::{Repo, did_plc};
use super::Catalogue;

pub fn fill(catalogue: &mut Catalogue) {
    let other = did_plc(1);
    catalogue.add_document("the document of another DID", "identity", |document| {
        document["id"] = json!(other);
    });
    catalogue.add_document("a document without an id", "identity", |document| {
        document.as_object_mut().expect("a map").remove("id");
    });
    let bodies = [
        ("text", json!("did")),
        ("an empty list", json!([])),
        ("an empty map", json!({})),
        ("null", Json::Null),
    ];
    for (name, body) in bodies {
        let name = format!("a document that is {name}");
        catalogue.add_document(&name, "identity", |document| *document = body);
    }
    let lists = [
        ("no methods", json!([])),
        ("methods as text", json!("#atproto")),
        ("methods of no kind", json!([null, 7, "#atproto", {}])),
    ];
    for (name, list) in lists {
        catalogue.add_document(name, "identity", |document| {
            document["verificationMethod"] = list;
        });
    }
    let ids = [
        "atproto",
        "#atproto2",
        "#Atproto",
        "##atproto",
        "#atproto_label",
        "did:plc:z72i7hdynmk6r22z27h6tvur#atproto",
    ];
    for id in ids {
        let name = format!("a method named {id}");
        catalogue.add_document(&name, "identity", |document| {
            method(document)["id"] = json!(id)
        });
    }
    catalogue.add_document("the first #atproto is no key", "identity", |document| {
        let mut first = method(document).clone();
        first["publicKeyMultibase"] = json!("z");
        let methods = document["verificationMethod"].as_array_mut();
        methods.expect("a list").insert(0, first);
    });
    let controllers = [("another", json!(other)), ("no", Json::Null)];
    for (name, controller) in controllers {
        let name = format!("{name} controller");
        catalogue.add_document(&name, "identity", |document| {
            method(document)["controller"] = controller;
        });
    }

    let key = SigningKey::k256(3);
    let point = key.public_point(true);
    let mut off_curve = point.clone();
    // No x of this size is one of the field.
    off_curve[1..].fill(0xff);
    let prefixed = |prefix: &[u8], point: &[u8]| multibase(&[prefix, point].concat());
    let multikeys = [
        ("no multibase at all", String::new()),
        ("a multibase of no alphabet", "z0OIl".to_owned()),
        (
            "an unknown multibase",
            format!("?{}", &key.multibase()[1..]),
        ),
        ("a bare point as Multikey", multibase(&point)),
        ("a Multikey of Ed25519", prefixed(&[0xed, 0x01], &[7; 32])),
        ("a Multikey without its point", prefixed(&[0xe7, 0x01], &[])),
        (
            "a Multikey cut short",
            prefixed(&[0xe7, 0x01], &point[..32]),
        ),
        (
            "a Multikey off the curve",
            prefixed(&[0xe7, 0x01], &off_curve),
        ),
    ];
    for (name, text) in multikeys {
        catalogue.add_document(name, "identity", |document| {
            method(document)["publicKeyMultibase"] = json!(text);
        });
    }
    for kind in ["Ed25519VerificationKey2020", "JsonWebKey2020", ""] {
        let name = format!("a method of the type {kind:?}");
        catalogue.add_document(&name, "identity", |document| {
            method(document)["type"] = json!(kind);
        });
    }
    type Text = fn(&Repo) -> String;
    let of_2019: [(&str, Text); 3] = [
        ("a type of 2019 with a multicodec prefix", |repo| {
            repo.key.multibase()
        }),
        ("a type of 2019 with half a point", |repo| {
            multibase(&repo.key.public_point(true)[..20])
        }),
        ("a type of 2019 with 33 zeros", |_| multibase(&[0; 33])),
    ];
    for (name, text) in of_2019 {
        let repo = catalogue.repo(3);
        let mut document = did_document_of_2019(&repo.did, &repo.key, true, super::SERVER);
        method(&mut document)["publicKeyMultibase"] = json!(text(&repo));
        catalogue.add_document(name, "identity", |good| *good = document);
    }
}

fn method(document: &mut Json) -> &mut Json {
    &mut document["verificationMethod"][0]
}
