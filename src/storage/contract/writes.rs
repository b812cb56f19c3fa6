//! What becomes of writes: outcomes, revisions, preconditions, deletion, and what counts as content.

use std::collections::BTreeMap;

use super::kit::{
    OrViolation as _, Site, create, date, delete, holds, missing, same, same_articles, same_head, stored_as, unexpected, update, valid,
};
use super::{GroupKind, PutOutcome, Subject, Violation};
use crate::article::{Article, ArticleDraft, ArticleHead, ArticleKey, Digest, Etag};
use crate::storage::{Direction, Precondition, WriteRefusal, Written};

pub async fn check(subject: &dyn Subject) -> Result<(), Violation> {
    revisions_count_contents(subject).await?;
    only_content_makes_a_revision(subject).await?;
    preconditions_decide(subject).await?;
    deletion_leaves_only_the_revision_number(subject).await?;
    another_date_is_another_article(subject).await?;
    batches_run_in_order(subject).await
}

async fn unchanged(subject: &dyn Subject, promise: &str, put: &Article, kept: &Article, head: &ArticleHead) -> Result<(), Violation> {
    match subject.put(put.clone(), Precondition::None).await.or_violation(promise)? {
        Ok(Written::Unchanged(found)) => same_head(promise, &found, head)?,
        other => return Err(unexpected(promise, put.key(), &other)),
    }
    stored_as(subject, promise, kept, head.clone()).await.map(drop)
}

async fn revisions_count_contents(subject: &dyn Subject) -> Result<(), Violation> {
    let site = Site::new()?;
    let first = site.article("/revisions", "the first text")?;
    let second = site.article("/revisions", "the second text")?;
    missing(subject, "what was never put is not there", first.key()).await?;

    let created = create(subject, &first).await?;
    same("a new article has revision 1", &created.revision, &1)?;
    same("a new article was updated when it was created", &created.update_time, &created.create_time)?;
    unchanged(subject, "the same content again is Unchanged and writes nothing", &first, &first, &created).await?;

    let updated = update(subject, &second).await?;
    same("another content has the next revision", &updated.revision, &2)?;
    same("an update keeps create_time", &updated.create_time, &created.create_time)?;
    let promise = "update_time grows with every revision";
    holds(promise, updated.update_time > created.update_time, || format!("{} after {}", updated.update_time, created.update_time))?;
    unchanged(subject, "an updated article stays when put again", &second, &second, &updated).await?;

    let back = update(subject, &first).await?;
    same("going back to an earlier content is a revision too", &back.revision, &3)?;
    same("the same content has the same digest", &back.digest, &created.digest)?;
    let mut last = back;
    for number in 4..30 {
        let head = update(subject, &site.article("/revisions", &format!("text {number}"))?).await?;
        same("each revision has the next number", &head.revision, &number)?;
        same("no update changes create_time", &head.create_time, &created.create_time)?;
        holds(promise, head.update_time > last.update_time, || format!("{} after {}", head.update_time, last.update_time))?;
        last = head;
    }
    Ok(())
}

async fn only_content_makes_a_revision(subject: &dyn Subject) -> Result<(), Violation> {
    let site = Site::new()?;
    let time = |text: &str| text.parse().map(Some).or_violation("the time of the check is one");
    let draft = ArticleDraft {
        lead: "A lead".to_owned(),
        authors: vec!["A".to_owned(), "B".to_owned()],
        crawl_time: time("2024-05-01T10:00:00Z")?,
        ..site.draft("/content?b=1&a=2", "the text")
    };
    let original = valid(draft.clone())?;
    let mut head = create(subject, &original).await?;
    let host = site.host();
    let other_spellings = [
        ArticleDraft { crawl_time: time("2024-06-01T10:00:00Z")?, ..draft.clone() },
        ArticleDraft { crawl_time: None, ..draft.clone() },
        ArticleDraft { url: format!("http://www.{}:80/content?utm_source=x&b=1&a=2#top", host.to_uppercase()), ..draft.clone() },
        ArticleDraft { url: format!("https://user@{host}./content?a=2&b=1"), crawl_time: None, ..draft.clone() },
    ];
    for other in other_spellings {
        let promise = "crawl_time and the spelling of the URL are no content: the earlier ones are kept";
        unchanged(subject, promise, &valid(other)?, &original, &head).await?;
    }

    type Edit = fn(&mut ArticleDraft);
    let edits: [(&str, Edit); 15] = [
        ("title", |draft| draft.title.push('!')),
        ("lead", |draft| draft.lead.clear()),
        ("body", |draft| draft.body.push('\n')),
        ("publish_time", |draft| draft.publish_time = draft.crawl_time),
        ("modify_time", |draft| draft.modify_time = draft.crawl_time),
        ("the order of the authors", |draft| draft.authors.reverse()),
        ("an empty author", |draft| draft.authors.push(String::new())),
        ("keywords", |draft| draft.keywords.push("k".to_owned())),
        ("section", |draft| draft.section.push('s')),
        ("language", |draft| draft.language.push_str("de-CH")),
        ("publisher", |draft| draft.publisher.push('p')),
        ("an annotation", |draft| drop(draft.annotations.insert("name".to_owned(), String::new()))),
        ("an annotation's value", |draft| drop(draft.annotations.insert("name".to_owned(), "value".to_owned()))),
        ("an annotation's name", |draft| draft.annotations = BTreeMap::from([("other".to_owned(), "value".to_owned())])),
        ("text that looks alike", |draft| draft.title = draft.title.replace("A", "\u{0410}")),
    ];
    let mut draft = draft;
    // A revision takes the new spelling and crawl_time with it.
    draft.url = format!("http://{host}/content?a=2&b=1");
    draft.crawl_time = time("2024-07-01T10:00:00Z")?;
    for (field, edit) in edits {
        edit(&mut draft);
        let updated = update(subject, &valid(draft.clone())?).await?;
        same(&format!("a change of {field} is another content"), &updated.revision, &(head.revision + 1))?;
        head = updated;
    }
    Ok(())
}

async fn preconditions_decide(subject: &dyn Subject) -> Result<(), Violation> {
    let site = Site::new()?;
    let first = site.article("/preconditions", "the first text")?;
    let second = site.article("/preconditions", "the second text")?;
    let nothing = Etag { revision: 1, digest: first.digest() };
    refused(subject, &first, Precondition::Etag(nothing), WriteRefusal::NotFound).await?;
    refused_deletion(subject, first.key(), Precondition::None).await?;
    refused_deletion(subject, first.key(), Precondition::Etag(nothing)).await?;
    missing(subject, "a refused write writes nothing", first.key()).await?;

    let promise = "what must not exist, and does not, is Created";
    let created = match subject.put(first.clone(), Precondition::MustNotExist).await.or_violation(promise)? {
        Ok(Written::Created(head)) => stored_as(subject, promise, &first, head).await?,
        other => return Err(unexpected(promise, first.key(), &other)),
    };
    let others = [
        Etag { revision: created.revision + 1, ..created.etag() },
        Etag { revision: 0, ..created.etag() },
        Etag { digest: Digest::from_bytes([7; 32]), ..created.etag() },
        Etag { digest: second.digest(), ..created.etag() },
    ];
    for article in [&first, &second] {
        refused(subject, article, Precondition::MustNotExist, WriteRefusal::AlreadyExists).await?;
        for etag in others {
            refused(subject, article, Precondition::Etag(etag), WriteRefusal::EtagMismatch).await?;
        }
    }
    let promise = "an article with another etag is not deleted";
    for etag in others {
        let outcome = subject.delete(first.key().clone(), Precondition::Etag(etag)).await.or_violation(promise)?;
        holds(promise, outcome == Err(WriteRefusal::EtagMismatch), || format!("the outcome was {outcome:?}"))?;
    }
    stored_as(subject, "refused writes change nothing", &first, created.clone()).await?;

    let promise = "an etag that matches lets the write through";
    let etag = Precondition::Etag(created.etag());
    match subject.put(first.clone(), etag).await.or_violation(promise)? {
        Ok(Written::Unchanged(head)) => same_head(promise, &head, &created)?,
        other => return Err(unexpected(promise, first.key(), &other)),
    }
    let updated = match subject.put(second.clone(), etag).await.or_violation(promise)? {
        Ok(Written::Updated(head)) => stored_as(subject, promise, &second, head).await?,
        other => return Err(unexpected(promise, second.key(), &other)),
    };
    refused(subject, &first, etag, WriteRefusal::EtagMismatch).await?;
    let outcome = subject.delete(second.key().clone(), etag).await.or_violation(promise)?;
    holds("an earlier etag deletes nothing", outcome == Err(WriteRefusal::EtagMismatch), || format!("{outcome:?}"))?;
    match subject.delete(second.key().clone(), Precondition::Etag(updated.etag())).await.or_violation(promise)? {
        Ok(Written::Deleted(_)) => missing(subject, "an article deleted by its etag is gone", second.key()).await?,
        other => return Err(unexpected(promise, second.key(), &other)),
    }
    refused(subject, &second, Precondition::Etag(updated.etag()), WriteRefusal::NotFound).await?;
    missing(subject, "an etag brings no deleted article back", second.key()).await
}

async fn refused(subject: &dyn Subject, article: &Article, precondition: Precondition, refusal: WriteRefusal) -> Result<(), Violation> {
    let promise = format!("a put with {precondition:?} is refused as {refusal:?}");
    let outcome = subject.put(article.clone(), precondition).await.or_violation(&promise)?;
    holds(&promise, outcome == Err(refusal), || format!("the outcome for {} was {outcome:?}", article.key()))
}

async fn refused_deletion(subject: &dyn Subject, key: &ArticleKey, precondition: Precondition) -> Result<(), Violation> {
    let promise = "deleting what is not there is refused as NotFound";
    let outcome = subject.delete(key.clone(), precondition).await.or_violation(promise)?;
    holds(promise, outcome == Err(WriteRefusal::NotFound), || format!("the outcome for {key} was {outcome:?}"))
}

async fn deletion_leaves_only_the_revision_number(subject: &dyn Subject) -> Result<(), Violation> {
    let site = Site::new()?;
    let (path, filter) = ("/deleted", site.filter()?);
    let first = site.article(path, "the first text")?;
    let second = site.article(path, "the second text")?;
    create(subject, &first).await?;
    let mut before = update(subject, &second).await?;
    for round in 0..3 {
        delete(subject, second.key()).await?;
        refused_deletion(subject, second.key(), Precondition::None).await?;
        let promise = "a deleted article is in no index";
        same(promise, &subject.latest_article(first.url()).await.or_violation(promise)?, &None)?;
        same(promise, &subject.article_dates(first.url()).await.or_violation(promise)?, &Vec::new())?;
        same(promise, &subject.articles(&[first.key().clone()]).await.or_violation(promise)?, &vec![None])?;
        for direction in [Direction::Ascending, Direction::Descending] {
            same_articles(promise, &subject.scan(&filter, direction, 10).await.or_violation(promise)?, &[])?;
        }
        same(promise, &subject.count(&filter, GroupKind::Total, 10).await.or_violation(promise)?, &vec![(String::new(), 0)])?;
        same(promise, &subject.count(&filter, GroupKind::Day, 10).await.or_violation(promise)?, &Vec::new())?;
        same(promise, &subject.count(&filter, GroupKind::Host, 10).await.or_violation(promise)?, &Vec::new())?;

        // The last text there was is created as any other would be.
        let again = if round == 1 { &first } else { &second };
        let precondition = if round == 2 { Precondition::MustNotExist } else { Precondition::None };
        let promise = "an article that was deleted is Created again with the next revision";
        let head = match subject.put(again.clone(), precondition).await.or_violation(promise)? {
            Ok(Written::Created(head)) => stored_as(subject, promise, again, head).await?,
            other => return Err(unexpected(promise, again.key(), &other)),
        };
        same(promise, &head.revision, &(before.revision + 1))?;
        same("an article created again was updated when it was created", &head.update_time, &head.create_time)?;
        let promise = "an article created again is newer than what was deleted";
        holds(promise, head.update_time > before.update_time, || format!("{} after {}", head.update_time, before.update_time))?;
        before = head;
    }
    let third = update(subject, &site.article(path, "the third text")?).await?;
    same("revisions go on after a deletion", &third.revision, &(before.revision + 1))?;
    same("create_time is that of the last creation", &third.create_time, &before.create_time)
}

async fn another_date_is_another_article(subject: &dyn Subject) -> Result<(), Violation> {
    let site = Site::new()?;
    let (may, june) = (site.article_of("05-01", "/daily", "the text")?, site.article_of("06-01", "/daily", "the text")?);
    create(subject, &may).await?;
    let head = create(subject, &june).await?;
    same("the same URL under another date is an article of its own", &head.revision, &1)?;
    update(subject, &site.article_of("05-01", "/daily", "another text")?).await?;
    stored_as(subject, "an update leaves other dates alone", &june, head.clone()).await?;
    delete(subject, may.key()).await?;
    stored_as(subject, "a deletion leaves other dates alone", &june, head.clone()).await?;
    let promise = "a deletion leaves other dates alone";
    same(promise, &subject.article_dates(june.url()).await.or_violation(promise)?, &vec![date(&site.date("06-01"))?])?;
    let slash = site.article_of("06-01", "/daily/", "the text")?;
    let upper = site.article_of("06-01", "/Daily", "the text")?;
    create(subject, &slash).await?;
    create(subject, &upper).await?;
    stored_as(subject, "a slash or the case of a path makes another article", &june, head).await.map(drop)
}

async fn batches_run_in_order(subject: &dyn Subject) -> Result<(), Violation> {
    let site = Site::new()?;
    let promise = "a batch has an outcome a write, in order, and each sees those before it";
    same("an empty batch has no outcomes", &subject.put_many(Vec::new()).await.or_violation(promise)?, &Vec::new())?;
    let one = |body: &str| site.article("/batch/one", body);
    let (other, last) = (site.article("/batch/other", "x")?, one("c")?);
    let articles = [one("a")?, one("a")?, other.clone(), one("b")?, one("a")?, other.clone(), last.clone(), last.clone()];
    let etag = |revision: u64, article: &Article| Etag { revision, digest: article.digest() };
    let [first, _, _, second, ..] = &articles;
    let expected = vec![
        PutOutcome::Created(etag(1, first)),
        PutOutcome::Unchanged(etag(1, first)),
        PutOutcome::Created(etag(1, &other)),
        PutOutcome::Updated(etag(2, second)),
        PutOutcome::Updated(etag(3, first)),
        PutOutcome::Unchanged(etag(1, &other)),
        PutOutcome::Updated(etag(4, &last)),
        PutOutcome::Unchanged(etag(4, &last)),
    ];
    same(promise, &subject.put_many(articles.to_vec()).await.or_violation(promise)?, &expected)?;
    for (article, revision) in [(&last, 4), (&other, 1)] {
        let found = subject.article(article.key()).await.or_violation(promise)?;
        let etag = found.as_ref().map(|found| found.head.etag());
        same("what a batch wrote is there", &etag, &Some(Etag { revision, digest: article.digest() }))?;
        same("what a batch wrote is there", &found.map(|found| found.article), &Some(article.clone()))?;
    }
    let again = subject.put_many(vec![last.clone(), other]).await.or_violation(promise)?;
    let all_unchanged = again.iter().all(|outcome| matches!(outcome, PutOutcome::Unchanged(_)));
    holds("a batch again changes nothing", all_unchanged, || format!("{again:?}"))
}
