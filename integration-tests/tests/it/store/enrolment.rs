//! Enrolment keys and tokens.

use kernex_integration_tests::{Database, both_databases};
use kernex_proto::ids::{Digest, TokenId};
use kernex_server::store::{
    BindKeyError, NewEnrollmentToken, NewOperatorToken, Page, Role, StoreError,
};

use super::fixture::{Fixture, HOUR, caller, enrolment, token};

both_databases![
    the_same_key_gets_the_same_device_and_uses_up_no_token,
    a_name_held_by_another_key_cannot_be_enrolled,
    tokens_that_are_wrong_revoked_or_expired_let_nobody_in,
    a_replacing_key_takes_the_device_over_and_the_old_one_is_revoked,
    operator_tokens_work_until_they_expire_or_are_revoked,
];

async fn the_same_key_gets_the_same_device_and_uses_up_no_token(database: Database) {
    let fixture = Fixture::new(database).await;
    let id = fixture.token(token(1)).await;
    let first = fixture
        .store
        .enroll(enrolment(id, "edge-1", b"key"))
        .await
        .unwrap();
    let again = fixture
        .store
        .enroll(enrolment(id, "other-name", b"key"))
        .await
        .unwrap();
    assert_eq!(first, again);
    let tokens = fixture
        .view
        .list_enrollment_tokens(Page::first(10))
        .await
        .unwrap();
    assert_eq!(
        (tokens.items[0].uses_left, tokens.items[0].uses_total),
        (0, 1)
    );
    let second = fixture
        .store
        .enroll(enrolment(id, "edge-2", b"another key"))
        .await;
    assert!(
        matches!(second, Err(BindKeyError::TokenEnded("is used up"))),
        "{second:?}"
    );
    let device = fixture.view.get_device("edge-1").await.unwrap();
    assert_eq!(device.labels["site"], "berlin");
    assert_eq!(device.inventory.hostname, "nul inside");
}

async fn a_name_held_by_another_key_cannot_be_enrolled(database: Database) {
    let fixture = Fixture::new(database).await;
    let id = fixture.token(token(2)).await;
    fixture
        .store
        .enroll(enrolment(id, "edge-1", b"key"))
        .await
        .unwrap();
    let taken = fixture
        .store
        .enroll(enrolment(id, "edge-1", b"thief"))
        .await;
    assert!(matches!(taken, Err(BindKeyError::NameTaken(name)) if name == "edge-1"));
    let tokens = fixture
        .view
        .list_enrollment_tokens(Page::first(10))
        .await
        .unwrap();
    assert_eq!(tokens.items[0].uses_left, 1);
}

async fn tokens_that_are_wrong_revoked_or_expired_let_nobody_in(database: Database) {
    let fixture = Fixture::new(database).await;
    let id = fixture.token(token(9)).await;
    let mut wrong = enrolment(id, "a", b"a");
    wrong.secret_hash = Digest::of(b"guess");
    let unknown = enrolment(TokenId::generate(), "b", b"b");
    for attempt in [wrong, unknown] {
        assert!(matches!(
            fixture.store.enroll(attempt).await,
            Err(BindKeyError::NotAuthenticated(_))
        ));
    }
    fixture.clock.advance(HOUR * 2);
    assert!(matches!(
        fixture.store.enroll(enrolment(id, "c", b"c")).await,
        Err(BindKeyError::TokenEnded("has expired"))
    ));
    let id = fixture.token(token(9)).await;
    fixture
        .operators
        .revoke_enrollment_token(&caller("RevokeEnrollmentToken"), id)
        .await
        .unwrap();
    assert!(matches!(
        fixture.store.enroll(enrolment(id, "d", b"d")).await,
        Err(BindKeyError::TokenEnded("was revoked"))
    ));
    assert!(
        fixture
            .view
            .list_enrollment_tokens(Page::first(1))
            .await
            .unwrap()
            .items[0]
            .revoked
    );
}

async fn a_replacing_key_takes_the_device_over_and_the_old_one_is_revoked(database: Database) {
    let fixture = Fixture::new(database).await;
    let device = fixture.device("edge-1").await;
    fixture.session(&device, 0, &[]).await;
    let replacing = NewEnrollmentToken {
        replaces_device: Some("edge-1".into()),
        ..token(1)
    };
    let id = fixture.token(replacing).await;
    let enrolled = fixture
        .store
        .enroll(enrolment(id, "whatever", b"new disk"))
        .await
        .unwrap();
    assert_eq!(
        (enrolled.device, enrolled.name.as_str()),
        (device.id, "edge-1")
    );
    let key = fixture
        .store
        .device_keys(&[device.id])
        .await
        .unwrap()
        .remove(&device.id)
        .unwrap();
    assert_eq!(
        (key.digest, key.der),
        (Digest::of(b"new disk"), b"new disk".to_vec())
    );
    let old = fixture.open(fixture.opening(&device, 1, &[])).await;
    assert!(old.is_err(), "the old key speaks no more");
}

async fn operator_tokens_work_until_they_expire_or_are_revoked(database: Database) {
    let fixture = Fixture::new(database).await;
    assert!(!fixture.store.has_operator_token().await.unwrap());
    let new = |hash: &[u8]| NewOperatorToken {
        name: "ada".into(),
        role: Role::Admin,
        hash: Digest::of(hash),
        ttl: HOUR,
    };
    let made = fixture
        .operators
        .create_operator_token(&caller("CreateOperatorToken"), new(b"a"))
        .await
        .unwrap();
    assert!(fixture.store.has_operator_token().await.unwrap());
    let found = fixture
        .store
        .find_principal(Digest::of(b"a"))
        .await
        .unwrap()
        .unwrap();
    assert_eq!((found.token_id, found.role), (made.id, Role::Admin));
    assert!(
        fixture
            .store
            .find_principal(Digest::of(b"b"))
            .await
            .unwrap()
            .is_none()
    );
    let revoke = async || {
        let caller = caller("RevokeOperatorToken");
        fixture
            .operators
            .revoke_operator_token(&caller, made.id)
            .await
    };
    let last = revoke().await;
    assert!(
        matches!(&last, Err(StoreError::LastAdmin(_))),
        "nobody could make another one: {last:?}"
    );
    let other = NewOperatorToken {
        name: "other".into(),
        role: Role::Admin,
        hash: Digest::of(b"other"),
        ttl: HOUR,
    };
    fixture
        .operators
        .create_operator_token(&caller("CreateOperatorToken"), other)
        .await
        .unwrap();
    revoke().await.unwrap();
    assert!(
        fixture
            .store
            .find_principal(Digest::of(b"a"))
            .await
            .unwrap()
            .is_none()
    );
    fixture
        .operators
        .create_operator_token(&caller("CreateOperatorToken"), new(b"c"))
        .await
        .unwrap();
    fixture.clock.advance(HOUR * 2);
    assert!(
        fixture
            .store
            .find_principal(Digest::of(b"c"))
            .await
            .unwrap()
            .is_none()
    );
}
